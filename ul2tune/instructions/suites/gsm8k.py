"""GSM8K: its files -> records, as solutions to train on and as few-shot chains of thought.

    folder/{train,test}.jsonl    {"question": "…", "answer": "…<<48/2=24>>24…\\n#### 18"}

Source: Cobbe et al. 2021 (arXiv:2110.14168) and the `openai/grade-school-math` repository, whose
targets are the whole `answer`. Few-shot prompts have the layout of Wei et al. 2022
(arXiv:2201.11903); their eight exemplars were written by hand and are not in the data, so exemplars
are drawn from the training file.

    Q: {question}
    A: {rationale in one paragraph} The answer is {number}.

    …
    Q: {query}
    A:

`ul2tune.metrics.answers.extract_gsm8k` reads the number out of either form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ul2tune.instructions import exemplars, reading
from ul2tune.instructions.records import Demo, Record, Rendered
from ul2tune.metrics.answers import extract_gsm8k, strip_annotations

MARK = "\n#### "
_FILES = {"train": "train.jsonl", "validation": "test.jsonl"}


def load(path: str | Path) -> Iterator[Record]:
    """The records of one file, in order; ids are ``<file>-<line>``.

    `targets` is the number alone, without separators, `explanation` the solution before ``####``
    with its annotations; `structure` is ``{"number": "1,080"}`` where the file writes it otherwise.

    Raises:
      ValueError: naming file, line and what is wrong.
    """
    path = Path(path)
    for number, row in reading.read_json_lines(path):
        yield _record(row, f"{path}:{number}", f"{path.stem}-{number}")


def _record(row: Mapping[str, Any], where: str, identity: str) -> Record:
    question, text = (reading.string(row, key, where) for key in ("question", "answer"))
    rationale, mark, number = text.rpartition(MARK)
    answer = extract_gsm8k(text) if mark else ""
    if not answer:
        raise ValueError(f"{where}: 'answer' does not end in a line '#### <number>'.")
    return Record(
        id=identity,
        task="gsm8k",
        category="arithmetic",
        benchmark="gsm8k",
        license="MIT",
        input=question,
        targets=(answer,),
        explanation=rationale,
        metric_names=("gsm8k",),
        structure="" if number == answer else json.dumps({"number": number}),
    )


def render(record: Record, seed: int = 0, *, annotated: bool = True) -> Rendered:
    """The question as it is; the target is the file's `answer` to the byte: solution and
    ``#### number``.

    `annotated` keeps the calculator annotations.
    """
    del seed
    rationale = record.explanation if annotated else strip_annotations(record.explanation)
    written = json.loads(record.structure)["number"] if record.structure else record.targets[0]
    return Rendered(inputs=record.input, targets=f"{rationale}{MARK}{written}")


def render_cot(record: Record, seed: int, *, pool: Sequence[Demo] = (), shots: int = 8) -> Rendered:
    """A prompt with `shots` worked examples from `pool` (see :func:`demo_pool`).

    Which ones depends on `seed` alone, so that all queries share a prompt as in the paper; a query
    that is in the pool is never its own exemplar.

    Args:
      record: the query.
      seed: of the choice of exemplars.
      pool: candidates.
      shots: how many.
    """
    shared = exemplars.choose(pool, shots + 1, query_id="gsm8k", query_input="", seed=seed)
    demos = [demo for demo in shared if demo.input.strip() != record.input.strip()][:shots]
    blocks = [f"Q: {demo.input}\nA: {demo.explanation}\n\n" for demo in demos]
    return Rendered(
        inputs=f"{''.join(blocks)}Q: {record.input}\nA:",
        targets=f" {_chain(record)}",
        demo_ids=tuple(demo.id for demo in demos),
    )


def demo_pool(folder: str | Path) -> tuple[Demo, ...]:
    """The training file as exemplars."""
    return tuple(
        Demo(input=r.input, target=r.targets[0], explanation=_chain(r), id=r.id)
        for r in load(Path(folder) / _FILES["train"])
    )


def _chain(record: Record) -> str:
    steps = strip_annotations(record.explanation).split("\n")
    text = " ".join(step if step.endswith((".", "!", "?")) else f"{step}." for step in steps)
    return f"{text} The answer is {record.targets[0]}."


@dataclass(frozen=True, kw_only=True)
class Gsm8k:
    """The training file as split "train", the test file as "validation".

    `with_train` False leaves only the latter.
    """

    folder: str
    with_train: bool = True

    @property
    def splits(self) -> tuple[str, ...]:
        """SeqIO splits."""
        return ("train", "validation") if self.with_train else ("validation",)

    def read(self, split: str) -> Iterator[Record]:
        """The records of one split.

        Raises:
          ValueError: if the file is malformed.
        """
        for record in load(Path(self.folder) / _FILES[split]):
            yield record if self.with_train else replace(record, split_level="held_out")

    def fingerprint(self) -> str:
        """Of both files' bytes: prompts are made of the one, queries of the other."""
        paths = [Path(self.folder) / name for name in _FILES.values()]
        return reading.fingerprint(paths, self.with_train)
