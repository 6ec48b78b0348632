"""Vocabularies of Hugging Face's `tokenizer.json`: those of OPT, Llama, Qwen, Gemma.

    load("runs/llama")                        # an imported MODEL_DIR
    load("~/Qwen3-0.6B/tokenizer.json")       # or the file, or its folder

Text becomes the ids that the package `tokenizers` gives without start and end of sequence, template
or truncation; the package is needed only where text is encoded or decoded. `<|endoftext|>` and its
like in a text are characters unless `specials=True`.

Id 0 may be a piece (Qwen's "!"), and end of sequence any id: `Vocabulary.info` says. Sentinels and
modes for UL2 have to be added, see :func:`with_sentinels`:

    with_sentinels(load("runs/qwen"))                            # rows above the tokenizer's
    with_sentinels(load("runs/gemma"), 64, reserved="<unused{}>")     # no new rows
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ul2tune.data import tokenizer_files
from ul2tune.data.tokenizer_files import SpecialIds
from ul2tune.data.vocab_base import MODES, T5_EXTRA_IDS, FileVocabulary, Vocabulary
from ul2tune.data.vocab_info import VocabInfo

KIND = "tokenizer_json"


@dataclass(frozen=True, kw_only=True)
class TokenizerJsonVocabulary(FileVocabulary):
    """A tokenizer.json (or a vocab.json with merges.txt beside). Made by :func:`from_description`.

    Attributes:
      num_ids: ids of the tokenizer, added tokens included.
      specials: its special ids.
      reserved: ids below `num_ids` that serve as the sentinels in order and then as the modes;
        empty = those have ids of their own, from `num_ids` on.
    """

    num_ids: int
    specials: SpecialIds
    reserved: tuple[int, ...] = ()
    extra_ids: int = 0
    modes: tuple[str, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if self.reserved and len(self.reserved) != self.extra_ids + len(self.modes):
            raise ValueError(
                f"{len(self.reserved)} reserved tokens for {self.extra_ids} sentinels and "
                f"{len(self.modes)} modes: give one for each."
            )
        special = {v for v in dataclasses.astuple(self.specials) if v is not None}
        if taken := sorted(special & set(self.reserved)):
            raise ValueError(f"Token {taken[0]} cannot be reserved: it is a special one.")
        if beyond := sorted(t for t in {*special, *self.reserved} if not 0 <= t < self.num_ids):
            raise ValueError(f"{self.file} has {self.num_ids} ids, so {beyond[0]} is none of them.")

    @property
    def kind(self) -> str:
        return KIND

    @property
    def base_size(self) -> int:
        return self.num_ids

    @property
    def eos_id(self) -> int:
        return self.specials.eos

    @property
    def pad_id(self) -> int:
        return self.specials.pad

    @property
    def bos_id(self) -> int | None:
        return self.specials.bos

    @property
    def unk_id(self) -> int | None:
        return self.specials.unk

    @property
    def size(self) -> int:
        return self.num_ids if self.reserved else super().size

    @property
    def info(self) -> VocabInfo:
        if not self.reserved:
            return super().info
        modes = self.reserved[self.extra_ids :]
        return dataclasses.replace(
            super().info,
            vocab_size=self.num_ids,
            mode_ids={mode: (token,) for mode, token in zip(self.modes, modes, strict=True)},
            sentinel_ids=self.reserved[: self.extra_ids],
        )

    def read_model(self) -> bytes:
        """The bytes of the tokenizer.json, which is made from vocab.json where there is none."""
        file = Path(self.file)
        if file.name == tokenizer_files.VOCAB:
            return json.dumps(tokenizer_files.read_tokenizer(file), ensure_ascii=False).encode()
        try:
            return file.read_bytes()
        except OSError as error:
            raise ValueError(f"Tokenizer {file} cannot be read: {error}.") from error

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | self._identity()

    def _identity(self) -> dict[str, Any]:
        return super()._identity() | {
            "specials": dataclasses.asdict(self.specials),
            "reserved": list(self.reserved),
        }

    def _encode(self, text: str) -> list[int]:
        return self._checked(self._plain.encode(text, add_special_tokens=False).ids)

    def _encode_specials(self, text: str) -> list[int]:
        return self._checked(self._marked.encode(text, add_special_tokens=False).ids)

    def _own_specials(self) -> Sequence[str]:
        tokens = self._added_tokens(json.loads(self.read_model()))
        return [token["content"] for token in tokens if token.get("special")]

    @cached_property
    def added_texts(self) -> tuple[str, ...]:
        tokens = self._added_tokens(json.loads(self.read_model()))
        return tuple(token["content"] for token in tokens if not token["special"])

    def _checked(self, ids: list[int]) -> list[int]:
        if ids and max(ids) >= self.num_ids:
            raise ValueError(
                f"Text holds token {self._piece(max(ids))!r} (id {max(ids)}), which the model has "
                f"no row for: it has {self.num_ids}."
            )
        return ids

    def _decode(self, ids: Sequence[int], *, at_start: bool) -> str:
        if not ids:
            return ""
        text = self._plain.decode(list(ids), skip_special_tokens=False)
        if at_start or not self._anchor:
            return text
        # Decoders with a space before every text (Llama 2) drop it where decoding starts; inside a
        # text it is real.
        anchored = self._plain.decode([*self._anchor, *ids], skip_special_tokens=False)
        return anchored.removeprefix(self._plain.decode(self._anchor, skip_special_tokens=False))

    def _piece(self, token: int) -> str:
        return self._plain.id_to_token(token) or f"<row_{token}>"

    def _special(self, token: int) -> str:
        if not self.reserved:
            return super()._special(token)
        if token not in self.reserved:
            return f"<row_{token}>"
        index = self.reserved.index(token)
        if index < self.extra_ids:
            return f"<extra_id_{index}>"
        return f"[{self.modes[index - self.extra_ids]}]"

    def _is_text(self, token: int) -> bool:
        return super()._is_text(token) and token not in self._reserved_set

    def _reserved_ids(self) -> Sequence[int]:
        return self.reserved or super()._reserved_ids()

    @cached_property
    def _reserved_set(self) -> frozenset[int]:
        return frozenset(self.reserved)

    @cached_property
    def _anchor(self) -> list[int]:
        return self._encode("a")

    @cached_property
    def _plain(self):
        return self._open(specials=False)

    @cached_property
    def _marked(self):
        return self._open(specials=True)

    def _open(self, *, specials: bool) -> Any:
        """A tokenizer that takes special tokens in a text for what they are, or for characters."""
        try:
            import tokenizers  # optional, and not needed where only sizes are
        except ImportError as error:
            raise ValueError(
                f"Text of {self.file} needs the package `tokenizers`: pip install 'ul2tune[hf]'."
            ) from error
        content = json.loads(self._checked_model())
        content["added_tokens"] = self._added_tokens(content)
        try:
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the package raises nothing more specific
            raise ValueError(f"{self.file} is not read by `tokenizers`: {error}.") from error
        # A file may ask for what it was last used with.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = not specials
        return tokenizer

    def _added_tokens(self, content: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The added tokens of a file, special where they are so to this vocabulary."""
        # Otherwise Gemma's <unused…> would be found in any text.
        controls = {*self.reserved, *dataclasses.astuple(self.specials)}
        return [
            {**token, "special": token.get("special", False) or token["id"] in controls}
            for token in content.get("added_tokens") or ()
        ]

    def __getstate__(self) -> dict[str, Any]:
        # Workers open the file themselves, if they have to.
        return {k: v for k, v in self.__dict__.items() if k not in ("_plain", "_marked")}


def from_description(**values: Any) -> TokenizerJsonVocabulary:
    """For `ul2tune.data.vocab.load`.

    Args:
      values: ``file``; and, each found out from the files where it is not there: ``base_size`` (a
        model may have fewer rows than its tokenizer has ids), ``specials`` (ids by ``eos``,
        ``pad``, ``bos``, ``unk``), ``sha256``; and ``extra_ids``, ``modes``, ``reserved`` as for
        :func:`with_sentinels`.

    Raises:
      ValueError: if a file is not what it should be, or a key is not known.
    """
    if "file" not in values:
        raise ValueError(
            f'A vocabulary of kind "{KIND}" needs "file", the path of a tokenizer.json.'
        )
    file = Path(values.pop("file")).expanduser()
    size, specials = values.pop("base_size", None), values.pop("specials", None)
    reserved = values.pop("reserved", ())
    unresolved = isinstance(reserved, str) or any(isinstance(token, str) for token in reserved)
    if size is None or specials is None or unresolved:
        tokenizer = tokenizer_files.read_tokenizer(file)
        ids = tokenizer_files.token_ids(tokenizer)
        size = max(ids.values()) + 1 if size is None else size
        if specials is None:
            specials = dataclasses.asdict(tokenizer_files.special_ids(file, tokenizer))
        if unresolved:
            count = int(values.get("extra_ids", 0)) + len(values.get("modes", ()))
            reserved = tokenizer_files.resolve_reserved(reserved, ids, count)
    return TokenizerJsonVocabulary(
        file=str(file),
        num_ids=size,
        specials=SpecialIds(**specials),
        reserved=tuple(map(int, reserved)),
        known_sha256=values.pop("sha256", None),
        **values,
    )


def with_sentinels(
    vocabulary: Vocabulary,
    extra_ids: int = T5_EXTRA_IDS,
    modes: Iterable[str] = MODES,
    reserved: str | Sequence[str] | None = None,
) -> TokenizerJsonVocabulary:
    """A decoder's vocabulary with what UL2R needs (Tay et al. 2022, arXiv:2210.11399).

    Args:
      vocabulary: of this kind.
      extra_ids: number of sentinels.
      modes: names of the mode tokens.
      reserved: tokens of the tokenizer to take for them, sentinels first: texts, or one text with
        ``{}`` for 0, 1, 2, … None = new ids above the tokenizer's, sentinel k at
        ``base_size + extra_ids - 1 - k`` and modes after them, as in T5. The model then needs
        `rows` embedding rows: gin/runs/extend.gin with ``REAL_ROWS`` = the tokenizer's
        `base_size`; models with that many spare rows (Qwen) keep their ``vocab_size``.

    Raises:
      ValueError: if it is of another kind, or there are not so many reserved tokens.
    """
    if not isinstance(vocabulary, TokenizerJsonVocabulary):
        raise ValueError(
            f"A {vocabulary.kind} vocabulary has sentinels already; set its extra_ids and modes."
        )
    modes, found = tuple(modes), ()
    if reserved is not None:
        ids = tokenizer_files.token_ids(tokenizer_files.read_tokenizer(Path(vocabulary.file)))
        found = tokenizer_files.resolve_reserved(reserved, ids, extra_ids + len(modes))
    return dataclasses.replace(vocabulary, extra_ids=extra_ids, modes=modes, reserved=tuple(found))
