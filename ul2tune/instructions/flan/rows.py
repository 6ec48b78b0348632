"""Where Flan's rows come from: your files, one reader per kind, all giving `flan.corpus.Row`.

    JsonlRows   <task>/<split>.jsonl: the fields that the task's patterns name, and `options`,
                `answers`, `dialog` (lists) and `id`, all optional
    CotRows     question \\t answer \\t rationale, with a literal \\n for a new line
    DialogRows  {"utterances": […]} (WikiDialog) or {"context": […], "turn_id": …} (QReCC)
    P3Rows      {"inputs_pretokenized", "targets_pretokenized", "answer_choices"} of T0's P3
    NIv2Rows    a task file of Natural Instructions

A row that is wrong is reported with file, line and field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ul2tune.instructions import reading, superni_file
from ul2tune.instructions.flan.corpus import Row
from ul2tune.instructions.patterns import WHITESPACE
from ul2tune.instructions.records import stable_hash

_LISTS = ("options", "answers", "dialog")
_SLICE = re.compile(r"(\w+)(?:\[(-?\d+)?:(-?\d+)?\])?")
_MAX_TURN = 20
_MIN_QRECC_TURN = 7


@dataclass(frozen=True, kw_only=True)
class JsonlRows:
    """JSON lines by split.

    Attributes:
      folder: has `<split>.jsonl` in it.
      rules: our split -> "official[start:stop]" (`flan2021.split_rules`); empty = the files' names.
      overlap: let training and validation rows overlap where a file is so short that their slices
        do, as the authors' would. By default they are taken out of the training rows.
    """

    folder: str
    rules: Mapping[str, str] = field(default_factory=dict)
    overlap: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        folder = Path(self.folder)
        if not self.rules:
            return tuple(sorted(path.stem for path in folder.glob("*.jsonl")))
        return tuple(
            s for s, rule in self.rules.items() if self._file(parse_slice(rule)[0]).is_file()
        )

    def read(self, split: str) -> Iterator[Row]:
        """The rows of a split.

        Raises:
          ValueError: naming file, line and field of a row that is wrong.
        """
        name, start, stop = parse_slice(self.rules.get(split, split))
        path = self._file(name)
        chosen = None
        if self.rules:
            every = range(_count_lines(path))
            chosen = set(every[start:stop])
            if split == "train" and not self.overlap:
                for other in self.rules.keys() - {"train"}:
                    other_name, *bounds = parse_slice(self.rules[other])
                    if other_name == name:
                        chosen -= set(every[slice(*bounds)])
        for index, (number, data) in enumerate(reading.read_json_lines(path)):
            if chosen is None or index in chosen:
                yield row_from_json(data, f"{path}:{number}", f"{name}-{index}")

    def fingerprint(self) -> str:
        files = sorted(Path(self.folder).glob("*.jsonl"))
        return reading.fingerprint(
            files, [file.name for file in files], dict(self.rules), self.overlap
        )

    def _file(self, name: str) -> Path:
        return Path(self.folder) / f"{name}.jsonl"


@dataclass(frozen=True, kw_only=True)
class CotRows:
    """A TSV with a chain of thought (fields `question`, `answer`, `chain_of_thought`)."""

    path: str

    splits = ("train",)

    def read(self, split: str) -> Iterator[Row]:
        """The rows.

        Raises:
          ValueError: naming file and line of a row without three columns.
        """
        yield from load_cot(self.path)

    def fingerprint(self) -> str:
        return reading.fingerprint([self.path], "cot")


@dataclass(frozen=True, kw_only=True)
class DialogRows:
    """Dialogues, of which a random turn of the second speaker is the answer.

    Attributes:
      path: JSON lines.
      seed: of the turn, with the row's id.
    """

    path: str
    seed: int = 0

    splits = ("train",)

    def read(self, split: str) -> Iterator[Row]:
        """The rows; QReCC's up to turn 6 and dialogues of one turn are left out.

        Raises:
          ValueError: naming file, line and field of a row that is wrong.
        """
        for index, (number, data) in enumerate(reading.read_json_lines(self.path)):
            where = f"{self.path}:{number}"
            # WikiDialog starts with what the assistant says of itself.
            key = next((key for key in ("utterances", "context") if key in data), None)
            if key is None:
                raise ValueError(f"{where}: a dialogue has 'utterances' or 'context'.")
            turns = reading.strings(data, key, where)[1 if key == "utterances" else 0 :]
            turn_id = data.get("turn_id", _MIN_QRECC_TURN)
            if type(turn_id) is not int:
                raise ValueError(f"{where}: 'turn_id' must be an integer, got {turn_id!r:.60}.")
            if turn_id < _MIN_QRECC_TURN or len(turns) < 2:
                continue
            identity = str(data.get("id", f"train-{index}"))
            turn = answer_turn(len(turns), self.seed, identity)
            yield Row(id=identity, fields={"answer": turns[turn]}, dialog=turns[:turn])

    def fingerprint(self) -> str:
        return reading.fingerprint([self.path], "dialog", self.seed)


@dataclass(frozen=True, kw_only=True)
class P3Rows:
    """Rendered P3 examples, as T0 was trained on (see :func:`t0_row`)."""

    folder: str
    task_type: str
    compat: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in Path(self.folder).glob("*.jsonl")))

    def read(self, split: str) -> Iterator[Row]:
        """The rows.

        Raises:
          ValueError: naming file, line and field of a row that is wrong.
        """
        path = Path(self.folder) / f"{split}.jsonl"
        for index, (number, data) in enumerate(reading.read_json_lines(path)):
            where = f"{path}:{number}"
            identity = str(data.get("id", f"{split}-{index}"))
            yield t0_row(data, self.task_type, identity, where=where, compat=self.compat)

    def fingerprint(self) -> str:
        files = sorted(Path(self.folder).glob("*.jsonl"))
        return reading.fingerprint(files, self.splits, self.task_type, self.compat)


@dataclass(frozen=True, kw_only=True)
class NIv2Rows:
    """The instances of a Natural Instructions task file (`superni_file.load_task`).

    Fields: `Definition`, `input`, `output` and those of one worked example, `ex_input`,
    `ex_output`, `ex_explanation`: the first positive one that is not the instance itself
    (under `compat`, the first).
    """

    path: str
    compat: bool = False

    splits = ("train",)

    def read(self, split: str) -> Iterator[Row]:
        """The rows.

        Raises:
          ValueError: if the file is malformed or has no positive example to show.
        """
        task = superni_file.load_task(self.path)
        positive = [demo for demo in task.demos if not demo.negative]
        for instance in task.instances:
            example = next(
                (d for d in positive if self.compat or d.input.strip() != instance.input.strip()),
                None,
            )
            if example is None:
                raise ValueError(
                    f"{self.path}: instance {instance.id!r} needs a positive example that is not "
                    f"itself; the file has {len(positive)}."
                )
            fields = {
                "input": instance.input,
                "output": instance.outputs[0],
                "ex_input": example.input,
                "ex_output": example.target,
                "ex_explanation": example.explanation or "",
                "Definition": task.definitions[0],
            }
            yield Row(
                id=instance.id,
                fields=fields,
                answers=instance.outputs,
                answer_field="output",
                instruction=task.definitions[0],
            )

    def fingerprint(self) -> str:
        return reading.fingerprint([self.path], "niv2", self.compat)


def load_cot(path: str | Path) -> Iterator[Row]:
    r"""Reads question, answer and rationale; ``\n`` in question and rationale is a new line.

    Raises:
      ValueError: naming file and line of a row without three columns.
    """
    stem = Path(path).name.split(".")[0].removesuffix("_train")
    for number, data in reading.read_lines(path):
        # TensorFlow's lines, which the authors read, are without every carriage return.
        line = reading.decode(data, f"{path}:{number}").replace("\r", "").removesuffix("\n")
        columns = line.split("\t")
        if len(columns) < 3:
            raise ValueError(
                f"{path}:{number}: expected question, answer and rationale between tabs, got "
                f"{len(columns)} columns."
            )
        question, answer, rationale = columns[:3]
        fields = {
            "question": question.replace("\\n", "\n"),
            "answer": answer,
            "chain_of_thought": rationale.replace("\\n", "\n"),
        }
        yield Row(id=f"{stem}-{number}", fields=fields)


def t0_row(
    data: Mapping[str, Any], task_type: str, identity: str, *, where: str = "row", compat=False
) -> Row:
    r"""A P3 example as `question`, `answer` and, for multiple choice, options.

    Line ends become spaces, both real ones and a literal ``\n``. Under `compat` it is as the
    authors' second assignment overwrites their first: literal ones stay, and in answers and options
    line ends vanish without a space.

    Args:
      data: one row of P3.
      task_type: of T0's task table.
      identity: the row's id.
      where: starts error messages.
      compat: see above.

    Raises:
      ValueError: if a field is missing, or the answer is none of the options.
    """
    gap = "" if compat else " "
    question = _flatten(reading.string(data, "inputs_pretokenized", where), " ", compat)
    answer = _flatten(reading.string(data, "targets_pretokenized", where), gap, compat)
    if task_type == "t0_question_answer":
        return Row(id=identity, fields={"question": question, "answer": answer})
    raw = reading.strings(data, "answer_choices", where)
    options = tuple(_flatten(option, gap, compat) for option in raw)
    if answer not in options:
        raise ValueError(f"{where}: the answer {answer!r:.60} is none of {list(options)!r:.120}.")
    return Row(id=identity, fields={"question": question, "answer": answer}, options=options)


def answer_turn(turns: int, seed: int, identity: str) -> int:
    """Which of the turns 1, 3, 5, … is the answer: uniform over the first 20 of the odd turns."""
    return 2 * (stable_hash(seed, "turn", identity) % min(turns // 2, _MAX_TURN)) + 1


def row_from_json(data: Mapping[str, Any], where: str, identity: str) -> Row:
    """A row of fields; numbers become text.

    Raises:
      ValueError: naming `where` and the field that is neither text nor a known list.
    """
    values: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for key, value in data.items():
        if key in _LISTS:
            lists[key] = reading.strings(data, key, where)
        elif isinstance(value, str):
            values[key] = value
        elif isinstance(value, int) and not isinstance(value, bool):
            values[key] = str(value)
        else:
            raise ValueError(
                f"{where}: field {key!r} must be a string or an integer, got {value!r:.60}; lists "
                f"are only {', '.join(_LISTS)}."
            )
    identity = values.pop("id", identity)
    if not identity:
        raise ValueError(f"{where}: 'id' is empty.")
    options, answers, dialog = (lists.get(key, ()) for key in _LISTS)
    return Row(id=identity, fields=values, options=options, answers=answers, dialog=dialog)


def parse_slice(rule: str) -> tuple[str, int | None, int | None]:
    """``"train[:-200]"`` -> ``("train", None, -200)``.

    Raises:
      ValueError: if it is no such rule.
    """
    match = _SLICE.fullmatch(rule)
    if match is None:
        raise ValueError(f"{rule!r} is not a split such as 'train' or 'train[:-200]'.")
    name, start, stop = match.groups()
    return name, int(start) if start else None, int(stop) if stop else None


def _flatten(text: str, gap: str, compat: bool) -> str:
    text = text if compat else text.replace("\\n", gap)
    return text.replace("\n", gap).strip(WHITESPACE)


def _count_lines(path: Path) -> int:
    return sum(1 for _ in reading.read_lines(path))
