"""BIG-Bench Hard: its files -> records -> the prompts of Suzgun et al. 2022 (arXiv:2210.09261).

    folder/bbh/<task>.json           {"examples": [{"input": "…", "target": "…"}, …]}
    folder/cot-prompts/<task>.txt    a notice, "-----", a description, three worked examples

The prompt of the chain of thought is the file's text followed by the query; the direct prompt has
the exemplars' answers alone:

    {description}                             {description}

    Q: {question}                             Q: {question}
    A: Let's think step by step.              A: {answer}
    {rationale} So the answer is {answer}.
                                              …
    …
    Q: {query}                                Q: {query}
    A: Let's think step by step.              A:

Both are the authors' to the byte, but for three direct prompts: see :data:`OTHER_DIRECT_PROMPTS`.
`ul2tune.metrics.answers.extract_bbh` takes the answer out of what the model writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune.instructions import reading
from ul2tune.instructions.records import Demo, Record, Rendered
from ul2tune.metrics.answers import extract_bbh

TRIGGER = "Let's think step by step."
_RULE = "\n-----\n"
_QUESTION, _ANSWER = "\n\nQ: ", "\nA:"
# DIVERGES: the authors' direct prompts of these tasks hold other exemplars' text (a typing mistake,
# a changed date, no definition) than their files do; ours follow the files.
OTHER_DIRECT_PROMPTS = frozenset(
    {"date_understanding", "snarks", "tracking_shuffled_objects_three_objects"}
)


def task_names(folder: str | Path) -> tuple[str, ...]:
    """The tasks whose examples are in `folder`, sorted.

    Raises:
      ValueError: if there are none.
    """
    names = tuple(sorted(path.stem for path in (Path(folder) / "bbh").glob("*.json")))
    if not names:
        raise ValueError(f"{Path(folder) / 'bbh'} has no task files. Give the folder above bbh/.")
    return names


def load_prompt(path: str | Path) -> tuple[str, tuple[Demo, ...]]:
    """Reads one file of `cot-prompts`: the description and the worked examples.

    A demo's `explanation` is all that follows "Let's think step by step.", to the byte; its
    `target` is the answer extracted from it.

    Raises:
      ValueError: naming the file and what is missing in it.
    """
    text = reading.read_text(path)
    _, rule, body = text.partition(_RULE)
    if not rule:
        raise ValueError(f"{path}: no line '-----' between the notice and the prompt.")
    description, *blocks = body.split(_QUESTION)
    demos = []
    for number, block in enumerate(blocks, start=1):
        question, mark, rationale = block.partition(f"{_ANSWER} {TRIGGER}")
        if not mark:
            raise ValueError(f"{path}: worked example {number} has no line 'A: {TRIGGER}'.")
        demos.append(
            Demo(
                input=question,
                target=extract_bbh(rationale),
                explanation=rationale,
                id=f"cot-{number}",
            )
        )
    if not demos:
        raise ValueError(f"{path}: no worked example: none starts with a line 'Q: …'.")
    return description, tuple(demos)


def load(folder: str | Path, task: str) -> Iterator[Record]:
    """The records of one task, in the file's order; ids are ``<task>-<position>``.

    Raises:
      ValueError: naming the file, the example and what is wrong.
    """
    path = Path(folder) / "bbh" / f"{task}.json"
    rows = _examples(path)
    description, demos = load_prompt(Path(folder) / "cot-prompts" / f"{task}.txt")
    for index, row in enumerate(rows):
        where = f"{path}: examples[{index}]"
        yield Record(
            id=f"{task}-{index}",
            task=task,
            category=task,
            benchmark="bbh",
            license="MIT",
            split_level="held_out",
            instruction=description,
            input=reading.string(row, "input", where),
            targets=(reading.string(row, "target", where),),
            demos=demos,
            template_style="fs_noopt",
            metric_names=("bbh",),
        )


def render(record: Record, seed: int = 0, *, chain_of_thought: bool = True) -> Rendered:
    """The authors' prompt for a record of :func:`load`; nothing in it is random.

    The target is what follows the prompt in the direct format, " {answer}", and the last sentence
    of a rationale where there is a chain of thought, as the files hold none for the queries.
    """
    del seed
    demos = "".join(_worked(demo, chain_of_thought) for demo in record.demos)
    trigger = f" {TRIGGER}" if chain_of_thought else ""
    answer = record.targets[0]
    return Rendered(
        inputs=f"{record.instruction}{demos}{_QUESTION}{record.input}{_ANSWER}{trigger}",
        targets=f" So the answer is {answer}." if chain_of_thought else f" {answer}",
        demo_ids=tuple(demo.id for demo in record.demos),
    )


@dataclass(frozen=True, kw_only=True)
class BbhTask:
    """One task as a corpus with a validation split. `folder` is laid out as above."""

    folder: str
    task: str

    splits = ("validation",)

    def read(self, split: str) -> Iterator[Record]:
        """All records.

        Raises:
          ValueError: if a file is malformed.
        """
        return load(self.folder, self.task)

    def fingerprint(self) -> str:
        """Of both files' bytes."""
        folder = Path(self.folder)
        paths = folder / "bbh" / f"{self.task}.json", folder / "cot-prompts" / f"{self.task}.txt"
        return reading.fingerprint(paths, self.task)


def _worked(demo: Demo, chain_of_thought: bool) -> str:
    answer = f"{TRIGGER}{demo.explanation}" if chain_of_thought else demo.target
    return f"{_QUESTION}{demo.input}{_ANSWER} {answer}"


def _examples(path: Path) -> list[Mapping[str, Any]]:
    rows = reading.objects(reading.read_object(path), "examples", str(path))
    if not rows:
        raise ValueError(f"{path}: 'examples' must be a list that is not empty.")
    return rows
