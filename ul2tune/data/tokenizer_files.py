"""The tokenizer files of a Hugging Face folder, read as JSON: no tokenizer package is needed.

tokenizer.json             pieces, merges, added tokens, how text is split
vocab.json, merges.txt     the same of a byte-level BPE in the older layout (GPT-2, OPT)
spiece.model               a SentencePiece model (T5)
tokenizer_config.json, special_tokens_map.json     which texts end, begin and pad a sequence
generation_config.json, config.json                the same as ids
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENIZER, VOCAB, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
# T5's name first: its folders hold a tokenizer.json that was made from it.
SENTENCEPIECE = ("spiece.model", "tokenizer.model")
DESCRIPTION = "vocabulary.json"
# What ends a text where no file beside the tokenizer says so.
_USUAL_EOS = ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>")
_TEXT_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_ID_FILES = ("generation_config.json", "config.json")


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Ids that are no text.

    Attributes:
      eos: ends a sequence.
      pad: pads one; `eos` for tokenizers without.
      bos: starts a document, where models want that.
      unk: stands for what the tokenizer does not know.
    """

    eos: int
    pad: int
    bos: int | None = None
    unk: int | None = None


def describe(folder: Path) -> dict[str, Any]:
    """A description for `ul2tune.data.vocab.load` of the tokenizer in a folder.

    Its paths are relative to the folder. An imported MODEL_DIR describes itself.

    Raises:
      ValueError: if there is no tokenizer.
    """
    if (folder / DESCRIPTION).is_file():
        return read_object(folder / DESCRIPTION)
    settings = _optional(folder / "tokenizer_config.json")
    if settings.get("tokenizer_class") == "ByT5Tokenizer":
        return {"kind": "bytes"}
    for name in (SENTENCEPIECE[0], TOKENIZER, SENTENCEPIECE[1], VOCAB):
        if not (folder / name).is_file() or (name == VOCAB and not (folder / MERGES).is_file()):
            continue
        if name not in SENTENCEPIECE:
            return {"kind": "tokenizer_json", "file": name}
        extra = settings.get("extra_ids")  # 0 in mT5's, whose file has its own hundred
        sentinels = {"extra_ids": extra} if isinstance(extra, int) and extra > 0 else {}
        return {"kind": "sentencepiece", "file": name, **sentinels}
    raise ValueError(
        f"{folder} holds no tokenizer: none of {DESCRIPTION}, {TOKENIZER}, {VOCAB} with {MERGES}, "
        f"{', '.join(SENTENCEPIECE)}."
    )


def read_tokenizer(file: Path) -> dict[str, Any]:
    """The content of a tokenizer.json, or of a vocab.json and merges.txt in the same form.

    Raises:
      ValueError: if a file is missing or not what it should be.
    """
    found = read_object(file)
    if file.name == VOCAB:
        found = _byte_level_bpe(file, found)
    model, added = found.get("model"), found.get("added_tokens") or []
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise ValueError(f"{file} is not a tokenizer: it has no model with a vocab.")
    pieces = list(vocab.values()) if isinstance(vocab := model["vocab"], dict) else []
    if not all(isinstance(piece, int) for piece in pieces):
        raise ValueError(f"{file}: the model's vocab must map texts to ids.")
    if not isinstance(added, list) or not all(
        isinstance(t, dict) and isinstance(t.get("id"), int) and isinstance(t.get("content"), str)
        for t in added
    ):
        raise ValueError(f"{file}: added_tokens must be a list of objects with id and content.")
    return {**found, "added_tokens": added}


def token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """All tokens of a tokenizer.json and their ids."""
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: [text, score]
        vocab = {entry[0]: index for index, entry in enumerate(vocab)}
    return {**vocab, **{token["content"]: token["id"] for token in tokenizer["added_tokens"]}}


def special_ids(file: Path, tokenizer: Mapping[str, Any]) -> SpecialIds:
    """The special ids, from the files beside the tokenizer.

    The tokenizer's own settings come before those of generation, which may end at several ids: then
    the first.

    Raises:
      ValueError: if nothing says what ends a text.
    """
    ids = token_ids(tokenizer)
    names = ("eos", "pad", "bos", "unk")
    found = {name: next(_candidates(file.parent, name, ids), None) for name in names}
    eos = found["eos"]
    if eos is None:
        specials = {t["content"] for t in tokenizer["added_tokens"] if t.get("special")}
        usual = [ids[text] for text in _USUAL_EOS if text in specials]
        if len(usual) != 1:
            raise ValueError(
                f"Nothing beside {file} says which token ends a text: add tokenizer_config.json "
                f'with "eos_token", or give "specials": {{"eos": ID, "pad": ID}}.'
            )
        (eos,) = usual
    pad = eos if found["pad"] is None else found["pad"]
    return SpecialIds(eos=eos, pad=pad, bos=found["bos"], unk=found["unk"])


def _candidates(folder: Path, name: str, ids: Mapping[str, int]) -> Iterator[int]:
    for file in _TEXT_FILES:
        token = _optional(folder / file).get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and text in ids:
            yield ids[text]
    if name == "unk":
        return
    for file in _ID_FILES:
        value = _optional(folder / file).get(f"{name}_token_id")
        value = value[0] if isinstance(value, list) and value else value
        # A model without padding says -1.
        if isinstance(value, int) and value >= 0:
            yield value


def resolve_reserved(
    reserved: str | Sequence[Any], ids: Mapping[str, int], count: int
) -> list[int]:
    """Ids of tokens that a tokenizer has and never uses.

    Args:
      reserved: their texts or ids in order; or one text with ``{}`` for the numbers 0, 1, 2, …,
        such as ``"<unused{}>"`` (Gemma) or ``"<|reserved_special_token_{}|>"`` (Llama 3).
      ids: of the tokenizer.
      count: how many are needed.

    Raises:
      ValueError: if there are too few, one is unknown or twice.
    """
    if isinstance(reserved, str):
        reserved = [reserved.format(number) for number in range(count)]
    found = [token if isinstance(token, int) else ids.get(token) for token in reserved]
    if None in found:
        missing = reserved[found.index(None)]
        raise ValueError(
            f"The tokenizer has no token {missing!r} to reserve: {count} are needed for sentinels "
            f"and modes. Ask for fewer extra_ids, or leave `reserved` out to add rows."
        )
    if len(found) != count or len(set(found)) != count:
        raise ValueError(
            f"{len(set(found))} different reserved tokens for {count} sentinels and modes: give "
            f"one for each."
        )
    return [int(token) for token in found if token is not None]


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
      ValueError: if it is none, or there is no such file.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not readable JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} must be a JSON object, got {found!r:.60}.")
    return found


def _optional(file: Path) -> dict[str, Any]:
    return read_object(file) if file.is_file() else {}


def _byte_level_bpe(file: Path, vocab: Mapping[str, Any]) -> dict[str, Any]:
    """GPT-2's layout as a tokenizer.json: bytes, GPT-2's splitting, no space put before a text."""
    merges = file.with_name(MERGES)
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ValueError(f"{merges} is needed beside {file}: {error}.") from error
    pairs = [line for line in lines if line and not line.startswith("#version")]
    added = dict(_optional(file.with_name("added_tokens.json")))
    for name in _TEXT_FILES:
        for key, token in _optional(file.with_name(name)).items():
            text = token.get("content") if isinstance(token, dict) else token
            if key.endswith("_token") and isinstance(text, str) and text in vocab:
                added[text] = vocab[text]
    level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": token, "content": text, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for text, token in sorted(added.items(), key=lambda item: item[1])
        ],
        "pre_tokenizer": {**level, "add_prefix_space": False},
        "decoder": {**level, "add_prefix_space": True},
        "model": {"type": "BPE", "vocab": dict(vocab), "merges": pairs},
    }
