"""What generated instructions and instances must pass before anything is trained on them.

Source: Wang et al. 2023 (arXiv:2212.10560) §2 and the `yizhongw/self-instruct` repository; Alpaca's
further words. Pure functions of text; `generation` calls them in the authors' order.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ul2tune.instructions.records import stable_hash
from ul2tune.metrics.text import rouge

MIN_WORDS, MAX_WORDS = 4, 150
MAX_SIMILARITY = 0.7
MAX_INSTANCES = 5
# A model of text can neither see nor draw.
BLACKLIST = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files"),
    *("map", "maps", "draw", "plot", "go to"),
)
ALPACA_BLACKLIST = (*BLACKLIST, "video", "audio", "music", "flowchart", "diagram")
_PROGRAM = "write a program"
_NUMBER = re.compile(r"\n\d+\s?\. ")
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"[a-z0-9]+")
_EXAMPLE = re.compile(r"Example\s?\d*\.?")
_OUTPUT = re.compile(r"Output\s*\d*\s*:")
_INPUT = re.compile(r"Input\s*\d*\s*:")
_LABEL = "Class label:"
_YES = frozenset({"Yes", "yes", "YES"})


@dataclass(frozen=True)
class Instance:
    """One generated instance."""

    input: str
    output: str


# ---- instructions


def split_instructions(text: str) -> list[str]:
    """A completion of "1. … 8. … 9." as its instructions, not yet cleaned."""
    return _NUMBER.split(text)


def clean_instruction(text: str, *, compat: bool = False) -> str:
    """Single spaces, the first letter in upper case.

    DIVERGES: the authors' `.capitalize()` also puts all other letters in lower case, so that names
    are lost; `compat` does the same.

    >>> clean_instruction("name a  city in France"), clean_instruction("in France", compat=True)
    ('Name a city in France', 'In france')
    """
    text = _SPACE.sub(" ", text).strip()
    return text.capitalize() if compat else text[:1].upper() + text[1:]


def instruction_fault(instruction: str, blacklist: Sequence[str] = BLACKLIST) -> str | None:
    """Why a cleaned instruction is dropped; None = it is kept.

    Returns:
      "empty", "too short", "too long", "blacklisted word", "write a program", "punctuation" or
      "not ASCII" (the last two are about its first character): the first that applies.
    """
    if not instruction:
        return "empty"
    words = len(instruction.split())
    if words < MIN_WORDS:
        return "too short"
    if words > MAX_WORDS:
        return "too long"
    if any(re.search(rf"\b{re.escape(w)}\b", instruction, re.IGNORECASE) for w in blacklist):
        return "blacklisted word"
    if instruction.lower().startswith(_PROGRAM):
        return "write a program"
    if instruction[0] in string.punctuation:
        return "punctuation"
    if not instruction[0].isascii():
        return "not ASCII"
    return None


class Pool:
    """Instructions so far, to find near-duplicates in: ROUGE-L without stemming.

    Args:
      instructions: the first members; not compared with each other.
      threshold: similarity above it makes a duplicate.
    """

    def __init__(self, instructions: Iterable[str] = (), threshold: float = MAX_SIMILARITY):
        self.threshold = threshold
        self._members: list[tuple[str, Counter[str], int]] = []
        for instruction in instructions:
            self.add(instruction)

    def add(self, instruction: str) -> None:
        """Makes an instruction a member, whatever it resembles."""
        words = _WORD.findall(instruction.lower())
        self._members.append((instruction, Counter(words), len(words)))

    def near_duplicate(self, instruction: str) -> str | None:
        """The first member that is more similar than the threshold, or None."""
        words = _WORD.findall(instruction.lower())
        bag = Counter(words)
        for member, other, size in self._members:
            # No subsequence is longer than the shorter text, nor than what the bags share: most
            # pairs end here.
            needed = (self.threshold - 1e-9) * (len(words) + size) / 2.0
            if min(len(words), size) < needed:
                continue
            shared = sum(min(count, other[word]) for word, count in bag.items() if word in other)
            if shared >= needed and similarity(instruction, member) > self.threshold:
                return member
        return None


def similarity(instruction: str, other: str) -> float:
    """ROUGE-L F-measure of `rouge-score`, without stemming."""
    return rouge(other, instruction, stemmer=False)["f"]


def is_classification(completion: str) -> bool:
    """The answer to "Is it classification?"."""
    return completion.strip() in _YES


# ---- instances


def parse_instances(text: str, *, classification: bool, cut: bool = False) -> list[Instance]:
    """The instances of a completion, not yet filtered.

    Args:
      text: labels first ("Class label: …", then the input) if `classification`, otherwise
        "Example 1", the input, "Output: …"; or "Output: …" alone.
      classification: which of both prompts the completion is of.
      cut: it ended at the token limit, so its last instance is incomplete and left out.
    """
    parse = _labels_first if classification else _inputs_first
    instances = parse(text)
    return instances[:-1] if cut else instances


def filter_instances(instances: Sequence[Instance]) -> list[Instance]:
    """Drops what is invalid (:func:`instance_fault`) and what repeats; all, if answers conflict.

    DIVERGES: the order stays; the authors' goes through a set.
    """
    valid = [instance for instance in instances if instance_fault(instance) is None]
    return [] if conflicting(valid) else list(dict.fromkeys(valid))


def instance_fault(instance: Instance) -> str | None:
    """Why an instance is dropped: "input is output", "empty output", "ends with a colon"; None."""
    if instance.input == instance.output:
        return "input is output"
    if not instance.output:
        return "empty output"
    if instance.input.strip().endswith(":") or instance.output.strip().endswith(":"):
        return "ends with a colon"
    return None


def conflicting(instances: Iterable[Instance]) -> bool:
    """Whether the same input, not empty, has two different outputs."""
    outputs: dict[str, str] = {}
    return any(i.input and outputs.setdefault(i.input, i.output) != i.output for i in instances)


def choose_instances(
    instances: Sequence[Instance], instruction: str, *, seed: int, maximum: int = MAX_INSTANCES
) -> list[Instance]:
    """At most `maximum` of them, drawn by (seed, instruction), in their order."""
    ranked = sorted(
        range(len(instances)), key=lambda i: stable_hash(seed, "instances", instruction, i)
    )
    return [instances[i] for i in sorted(ranked[:maximum])]


def _inputs_first(text: str) -> list[Instance]:
    text = text.strip()
    if _EXAMPLE.search(text):
        return [_pair(part.strip()) for part in _EXAMPLE.split(text) if part.strip()]
    return [_pair(text)] if _OUTPUT.search(text) else []


def _pair(text: str) -> Instance:
    parts = _OUTPUT.split(text)
    input, output = (parts[0], parts[1]) if len(parts) > 1 else ("", text)
    # More pairs may follow; the first counts.
    output = _INPUT.split(output.strip())[0].strip()
    return Instance(re.sub(rf"^{_INPUT.pattern}", "", input.strip()).strip(), output)


def _labels_first(text: str) -> list[Instance]:
    instances = []
    for part in text.split(_LABEL)[1:]:
        label, _, input = part.strip().partition("\n")
        instances.append(Instance(input.strip(), label.strip()))
    return instances
