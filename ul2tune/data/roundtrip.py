"""Round-trip audit: what a vocabulary cannot represent.

T5's published vocabulary turns newlines into spaces and ``{ } < ~ \\ ^`` into unknowns, silently.
This says so before a run is spent on it, per text and per character.

    >>> from ul2tune.data import vocab
    >>> report = audit(vocab.load("bytes"), ["a\\nb", "{x}"])
    >>> report.num_texts, report.num_lossy, dict(report.lost)
    (2, 0, {})
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ul2tune.data.vocab import Vocabulary

MAX_EXAMPLES = 5
_CONTEXT_CHARACTERS = 30


@dataclass(kw_only=True)
class RoundTrip:
    """What happened to the texts on their way through ``decode(encode(text))``.

    Attributes:
      num_texts, num_lossy: texts seen, and those that came back different.
      num_characters, num_tokens: over all texts.
      num_unknown: tokens that are the unknown id.
      lost: occurrences of each character the vocabulary changes, by ``(character, what becomes of
        it)``; ``""`` where nothing is left.
      examples: the first differences as ``(before, after)``, with a little context.
    """

    num_texts: int = 0
    num_lossy: int = 0
    num_characters: int = 0
    num_tokens: int = 0
    num_unknown: int = 0
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[tuple[str, str]] = field(default_factory=list)

    def describe(self) -> str:
        """A few lines for people."""
        per_token = self.num_characters / max(1, self.num_tokens)
        lines = [
            f"{self.num_texts:,} texts, {self.num_tokens:,} tokens ({per_token:.2f} characters "
            f"each), {self.num_unknown:,} unknown; {self.num_lossy:,} texts come back different"
        ]
        for (character, after), count in self.lost.most_common(20):
            lines.append(f"  {character!r} becomes {after!r}  {count:,} times")
        lines += [f"  {before!r}\n    -> {after!r}" for before, after in self.examples]
        return "\n".join(lines)

    @property
    def lossy_share(self) -> float:
        """The share of the texts that come back different."""
        return self.num_lossy / max(1, self.num_texts)

    def worst(self) -> str:
        """The characters that are changed most often, as ``'\\n' -> ' ' 12×``."""
        return ", ".join(
            f"{character!r} -> {after!r} {times:,}×"
            for (character, after), times in self.lost.most_common(6)
        )

    def add(self, other: RoundTrip) -> None:
        """Takes in what happened to other texts."""
        for name in ("num_texts", "num_lossy", "num_characters", "num_tokens", "num_unknown"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lost.update(other.lost)
        self.examples = [*self.examples, *other.examples][:MAX_EXAMPLES]


def table(reports: Mapping[str, RoundTrip], most: int | None = None) -> str:
    """A line per task that loses something, the worst first and at most so many, then the sum over
    all tasks."""
    lossy = {name: report for name, report in reports.items() if report.num_lossy}
    names = sorted(lossy, key=lambda name: (-lossy[name].lossy_share, name))
    lines = []
    if names:
        lines.append(f"{'changed':>9}  {'of texts':>9}  {'unknown':>9}  task: what is lost most")
    for name in names[:most]:
        lines.append(_line(lossy[name], f"{name}: {lossy[name].worst()}"))
    if rest := names[len(names[:most]) :]:
        sums = _sum(lossy[name] for name in rest)
        lines.append(_line(sums, f"{len(rest):,} more tasks: {sums.worst()}"))
    total = _sum(reports.values())
    clean = f"{len(reports) - len(lossy)} of {len(reports)} tasks lose nothing"
    lines.append(_line(total, f"all: {clean}{'; ' * bool(names)}{total.worst()}"))
    return "\n".join(lines)


def _sum(reports: Iterable[RoundTrip]) -> RoundTrip:
    total = RoundTrip()
    for report in reports:
        total.add(report)
    return total


def _line(report: RoundTrip, words: str) -> str:
    return f"{report.lossy_share:9.1%}  {report.num_texts:>9,}  {report.num_unknown:>9,}  {words}"


def audit(vocabulary: Vocabulary, texts: Iterable[str]) -> RoundTrip:
    """Encodes and decodes every text and compares."""
    report, fate = RoundTrip(), {}
    for text in texts:
        ids = vocabulary.encode(text)
        back = vocabulary.decode(ids)
        report.num_texts += 1
        report.num_characters += len(text)
        report.num_tokens += len(ids)
        if vocabulary.unk_id is not None:
            report.num_unknown += ids.count(vocabulary.unk_id)
        if back == text:
            continue
        report.num_lossy += 1
        if len(report.examples) < MAX_EXAMPLES:
            report.examples.append(_difference(text, back))
        for character, count in Counter(text).items():
            if character not in fate:
                fate[character] = _becomes(vocabulary, character)
            if fate[character] != character:
                report.lost[character, fate[character]] += count
    return report


def _becomes(vocabulary: Vocabulary, character: str) -> str:
    """What one character turns into between two letters; all that comes back if these do not."""
    around = vocabulary.decode(vocabulary.encode(f"a{character}a"))
    if len(around) < 2 or around[0] != "a" or around[-1] != "a":
        return around
    return around[1:-1].strip(" ") or around[1:-1]


def _difference(before: str, after: str) -> tuple[str, str]:
    """The first place where two texts differ, with some context on both sides."""
    shorter = min(len(before), len(after))
    at = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    window = slice(max(0, at - _CONTEXT_CHARACTERS), at + _CONTEXT_CHARACTERS)
    return before[window], after[window]
