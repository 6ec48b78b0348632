"""13-gram decontamination: which evaluation examples share text with the training data.

    report = decontaminate(evaluation_texts, training_texts)

An example's overlap is the share of its n-grams of words that occur anywhere in the training text;
above 1 % OPT-IML (section 2) looks at it by hand, so the report names the n-grams and where they
were found. Words are runs of letters and digits, in lower case: punctuation and layout do not hide
a copy. The evaluation side is held in memory, the training side is streamed once.

Axis legend: W words of a text, G n-grams.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ul2tune.instructions import reading

NGRAM = 13
THRESHOLD = 0.01
# At most so many n-grams of an example are written out.
SHOWN = 5
_WORD = re.compile(r"[^\W_]+")
_TABLE_BITS = 24
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text and what it is called: ``task/id``, or a file and line."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Match:
    """An n-gram of an evaluation example and the first training text that holds it."""

    ngram: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Contaminated:
    """One line of the report.

    Attributes:
      id: of the evaluation example.
      overlap: share of its n-grams that are in the training text.
      num_ngrams: how many different ones it has.
      matches: some of those found, in the order of the text.
      sources: training texts the matches were first found in, each once.
    """

    id: str
    overlap: float
    num_ngrams: int
    matches: tuple[Match, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found.

    Attributes:
      contaminated: examples above the threshold, by falling overlap.
      num_examples: evaluation examples that were compared.
      too_short: names of those with fewer words than an n-gram has: not compared.
      num_texts: training texts read.
      threshold, ngram: of the comparison.
    """

    contaminated: tuple[Contaminated, ...]
    num_examples: int
    too_short: tuple[str, ...]
    num_texts: int
    threshold: float
    ngram: int

    def describe(self) -> str:
        """One sentence."""
        return (
            f"{len(self.contaminated):,} of {self.num_examples:,} examples share more than "
            f"{self.threshold:.1%} of their {self.ngram}-grams with {self.num_texts:,} training "
            f"texts; {len(self.too_short):,} shorter examples were not compared."
        )


class _Index:
    """The n-grams of the evaluation side.

    Attributes:
      hashes: uint64 [G], sorted and unique.
      sources: number of an n-gram -> name of the first training text that holds it.
    """

    def __init__(self, hashes: np.ndarray):
        self.hashes = hashes
        self.sources: dict[int, str] = {}
        # Whether there is a hash with these first bits: a small table answers most questions.
        self._shift = np.uint64(64 - _TABLE_BITS)
        self._table = np.zeros(2**_TABLE_BITS, bool)
        self._table[hashes >> self._shift] = True

    def look_up(self, text: Text, ngram: int) -> None:
        """Notes which n-grams a training text holds."""
        found = _ngram_hashes(_words(text.text), ngram)
        found = found[self._table[found >> self._shift]]
        if not found.size:
            return
        where = np.minimum(np.searchsorted(self.hashes, found), self.hashes.size - 1)
        for index in np.unique(where[self.hashes[where] == found]).tolist():
            self.sources.setdefault(index, text.name)


def decontaminate(
    evaluation: Iterable[Text],
    training: Iterable[Text],
    *,
    ngram: int = NGRAM,
    threshold: float = THRESHOLD,
) -> Report:
    """Compares every evaluation example with all training texts.

    Args:
      evaluation: examples, prompts and references in one text; kept in memory.
      training: streamed once.
      ngram: words of an n-gram.
      threshold: an example with more overlap is reported.

    Raises:
      ValueError: if `ngram` or `threshold` is out of range.
    """
    if ngram < 1 or not 0 <= threshold < 1:
        raise ValueError(
            f"decontaminate needs ngram >= 1 and a threshold in [0, 1), got {ngram}, {threshold}."
        )
    examples, too_short, hashes = [], [], []
    for example in evaluation:
        found = _ngram_hashes(_words(example.text), ngram)
        if found.size:
            examples.append(example)
            hashes.append(np.unique(found))
        else:
            too_short.append(example.name)
    index = _Index(np.unique(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64))
    num_texts = 0
    for text in training:
        index.look_up(text, ngram)
        num_texts += 1
    contaminated = [
        found
        for example in examples
        if (found := _compare(example, index, ngram)).overlap > threshold
    ]
    return Report(
        contaminated=tuple(sorted(contaminated, key=lambda c: (-c.overlap, c.id))),
        num_examples=len(examples),
        too_short=tuple(too_short),
        num_texts=num_texts,
        threshold=threshold,
        ngram=ngram,
    )


def write_report(report: Report, path: str | Path) -> None:
    """JSON lines: one per contaminated example (id, overlap, matches with their sources)."""
    lines = [json.dumps(asdict(found), ensure_ascii=False) for found in report.contaminated]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def read_texts(path: str | Path) -> Iterator[Text]:
    """Texts of a file: all strings of each object of a ``.jsonl``, else blocks between blank lines.

    Raises:
      ValueError: naming file and line of what is neither UTF-8 nor JSON.
    """
    lines = reading.read_lines(path)
    if str(path).endswith(".jsonl"):
        for number, line in lines:
            yield _from_json(reading.parse_json(line, path, number), f"{path}:{number}")
        return
    block: list[str] = []
    first = last = 0
    for number, line in lines:
        if block and number > last + 1:
            yield Text(name=f"{path}:{first}", text="".join(block))
            block = []
        first, last = first if block else number, number
        block.append(reading.decode(line, f"{path}:{number}"))
    if block:
        yield Text(name=f"{path}:{first}", text="".join(block))


def _from_json(data: Any, where: str) -> Text:
    # The separator belongs to no word, so that no n-gram joins two fields but those side by side.
    name = data.get("id", where) if isinstance(data, dict) else where
    return Text(
        name=f"{where} ({name})" if name != where else where, text="\n".join(_strings(data))
    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _ngram_hashes(words: list[str], ngram: int) -> np.ndarray:
    """uint64 [G]: a polynomial in the words' hashes, computed for all positions at once."""
    if len(words) < ngram:
        return np.zeros(0, np.uint64)
    hashes_W = np.fromiter(map(_word_hash, words), np.uint64, len(words))
    count = len(words) - ngram + 1
    total_G = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):  # modulo 2**64
        for offset in range(ngram):
            total_G = total_G * _MULTIPLIER + hashes_W[offset : offset + count]
    return total_G


class _WordHashes(dict[str, int]):
    """Word -> 64 bits, the same in every process; a language has few words, so they are kept."""

    LIMIT = 2_000_000

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if len(self) >= self.LIMIT:
            self.clear()
        self[word] = int.from_bytes(digest, "little")
        return self[word]


_word_hash = _WordHashes().__getitem__


def _compare(example: Text, index: _Index, ngram: int) -> Contaminated:
    words = _words(example.text)
    hashes = _ngram_hashes(words, ngram)
    unique, first = np.unique(hashes, return_index=True)
    numbers = np.searchsorted(index.hashes, unique)
    found = sorted(
        (int(position), index.sources[int(number)])
        for position, number in zip(first, numbers, strict=True)
        if int(number) in index.sources
    )
    return Contaminated(
        id=example.name,
        overlap=len(found) / unique.size,
        num_ngrams=int(unique.size),
        matches=tuple(
            Match(ngram=" ".join(words[position : position + ngram]), source=source)
            for position, source in found[:SHOWN]
        ),
        sources=tuple(dict.fromkeys(source for _, source in found)),
    )
