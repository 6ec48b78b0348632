"""GPT-2's byte-level BPE, from its `merges.txt`: the words of Tk-Instruct's cross-lingual ROUGE.

ROUGE-L counts words of Latin letters only, so Tk-Instruct scores other languages over GPT-2's
pieces (Radford et al. 2019), of which it then strips the sign for a space. The merges are OpenAI's
and not ours to ship: ``UL2TUNE_GPT2_BPE`` names `merges.txt` or the folder that has it.

    ByteBpe(load_merges("gpt2/merges.txt")).tokenize("Grüße, Welt")
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

VARIABLE = "UL2TUNE_GPT2_BPE"
Pair = tuple[str, str]
# Over classes of characters, as the standard library has no \p{L}: letter, number, white space,
# other. A space before a word belongs to it, and the last space of a run to what follows the run.
_WORD = re.compile(r" ?L+| ?N+| ?O+|[S ]+(?![^S ])|[S ]+")
_CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")


def load_merges(path: str | Path) -> dict[Pair, int]:
    """Reads `merges.txt`: a pair per line, earlier ones merge first.

    Raises:
      ValueError: naming the file and the line that is no pair.
    """
    path = Path(path)
    path = path / "merges.txt" if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable merges.txt of GPT-2: {error}.") from error
    merges: dict[Pair, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise ValueError(f"{path}:{number}: expected two pieces and a space, got {line!r:.60}.")
        merges[pair[0], pair[1]] = len(merges)
    if not merges:
        raise ValueError(f"{path} has no merges.")
    return merges


class ByteBpe:
    """The tokenizer; `tokenize` is what `rouge-score` asks of one.

    Args:
      merges: rank of each pair; lower merges first.
    """

    def __init__(self, merges: Mapping[Pair, int]):
        self._merges = merges
        self._pieces = functools.lru_cache(maxsize=65536)(self._merge)

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text, without the signs for spaces at their start.

        A piece that is a space and nothing else becomes an empty string, as in Tk-Instruct.
        """
        pieces = (piece for word in words(text) for piece in self._pieces(word))
        return [piece.lstrip(_SIGNS[ord(" ")]) for piece in pieces]

    def _merge(self, word: str) -> tuple[str, ...]:
        parts = [_SIGNS[byte] for byte in word.encode("utf-8", errors="replace")]
        while len(parts) > 1:
            ranks = [self._merges.get(pair, len(self._merges)) for pair in pairwise(parts)]
            best = min(ranks)
            if best == len(self._merges):
                break
            left, right = parts[ranks.index(best)], parts[ranks.index(best) + 1]
            merged, index = [], 0
            while index < len(parts):
                if parts[index : index + 2] == [left, right]:
                    merged.append(left + right)
                    index += 2
                else:
                    merged.append(parts[index])
                    index += 1
            parts = merged
        return tuple(parts)


def words(text: str) -> Iterator[str]:
    """Splits a text as GPT-2 does before merging: contractions, words with the space before."""
    classes = "".join(_class(character) for character in text)
    position = 0
    while position < len(text):
        found = _CONTRACTION.match(text, position) or _WORD.match(classes, position)
        assert found is not None, text[position]
        yield text[position : found.end()]
        position = found.end()


@functools.cache
def default() -> ByteBpe:
    """The tokenizer whose merges ``UL2TUNE_GPT2_BPE`` names.

    Raises:
      ValueError: if the variable is not set or the file is not readable.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        raise ValueError(
            f"The cross-lingual ROUGE-L counts GPT-2's pieces: set {VARIABLE} to its merges.txt "
            f"(from OpenAI's or Hugging Face's gpt2), or leave 'rouge_l_gpt2' out of the metrics."
        )
    return ByteBpe(load_merges(path))


def _class(character: str) -> str:
    if character == " ":
        return " "
    # Python calls U+001C to U+001F white space, Unicode (and with it GPT-2's \s) does not.
    if character.isspace() and not "\x1c" <= character <= "\x1f":
        return "S"
    return {"L": "L", "N": "N"}.get(unicodedata.category(character)[0], "O")


def _byte_signs() -> list[str]:
    """A printable character for every byte: itself, or the next from U+0100 on."""
    kept = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]


_SIGNS = _byte_signs()
