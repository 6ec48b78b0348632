"""Super-NaturalInstructions' task files, of any release -> tasks.

A task file of `allenai/natural-instructions` is one JSON object:

    {"Definition": ["…"], "Categories": ["…"], "Positive Examples": [{"input", "output",
     "explanation"}, …], "Negative Examples": […], "Instances": [{"id", "input", "output": […]}, …],
     "Instance License": ["…"], …}

Older releases have a string for `Definition` or `output`, no `id`, examples inside an `Examples`
object, `reason` for `explanation`, `"-"` for an empty list: all are read. One optional key of our
own, `"Answer Choices": ["…", …]`, declares the closed set of answers of a classification task: a
reference of every instance is among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune.instructions import reading
from ul2tune.instructions.records import Demo

# What stands for a list without examples.
_EMPTY = (None, "", "-")


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One instance of a task file: `outputs` are all references, never empty."""

    id: str
    input: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task file.

    Attributes:
      name: the file's name without `.json`.
      definitions: phrasings of the instruction that are not blank; Tk-Instruct uses the first.
      category: the first of `Categories`.
      demos: positive examples, then negative ones, in the file's order.
      answer_choices: the declared closed set of answers, or None.
    """

    name: str
    definitions: tuple[str, ...]
    category: str
    license: str
    demos: tuple[Demo, ...]
    instances: tuple[Instance, ...]
    answer_choices: tuple[str, ...] | None = None


def load_task(path: str | Path) -> Task:
    """Reads one task file of any release.

    Raises:
      ValueError: naming the file, the place in it and what is wrong there.
    """
    path = Path(path)
    return _task(path.stem, reading.read_object(path), str(path))


def _task(name: str, data: Mapping[str, Any], where: str) -> Task:
    nested = data.get("Examples")
    examples = nested if isinstance(nested, Mapping) else data
    definitions = _texts(data, "Definition", where)
    if not definitions or not definitions[0].strip():
        raise ValueError(f"{where}: 'Definition' is missing or empty.")
    rows = _rows(data, "Instances", where)
    if not rows:
        raise ValueError(f"{where}: 'Instances' is missing or empty.")
    instances = tuple(
        _instance(row, f"{name}-{index}", f"{where}: Instances[{index}]")
        for index, row in enumerate(rows)
    )
    counts = Counter(instance.id for instance in instances)
    repeated = [identity for identity, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(
            f"{where}: the id {repeated[0]!r} names {counts[repeated[0]]} instances; ids must be "
            "unique."
        )
    return Task(
        name=name,
        definitions=tuple(text for text in definitions if text.strip()),
        category=next(iter(_texts(data, "Categories", where)), ""),
        license=", ".join(_texts(data, "Instance License", where)),
        demos=(
            *_demos(examples, "Positive Examples", where, negative=False),
            *_demos(examples, "Negative Examples", where, negative=True),
        ),
        instances=instances,
        answer_choices=_choices(data, instances, where),
    )


def _instance(row: Mapping[str, Any], default_id: str, where: str) -> Instance:
    identity = reading.string(row, "id", where, default_id)
    if not identity:
        raise ValueError(f"{where}: 'id' is empty; leave the key out.")
    return Instance(
        id=identity, input=reading.string(row, "input", where), outputs=_outputs(row, where)
    )


def _demos(data: Mapping[str, Any], key: str, where: str, *, negative: bool) -> Iterator[Demo]:
    for index, row in enumerate(_rows(data, key, where)):
        place = f"{where}: {key}[{index}]"
        said = "explanation" if "explanation" in row else "reason"
        yield Demo(
            input=reading.string(row, "input", place),
            target=_outputs(row, place)[0],
            explanation=None if row.get(said) is None else reading.string(row, said, place),
            negative=negative,
        )


def _choices(
    data: Mapping[str, Any], instances: Sequence[Instance], where: str
) -> tuple[str, ...] | None:
    """Two or more different choices, with a reference of every instance among them; or None."""
    value = data.get("Answer Choices")
    if value is None:
        return None
    choices = _texts(data, "Answer Choices", where)
    # White space around a choice does not count (`metrics.choices.is_correct_choice`).
    known = {choice.strip() for choice in choices}
    if len(choices) < 2 or len(known) < len(choices):
        raise ValueError(
            f"{where}: 'Answer Choices' must be two or more different strings, got {value!r:.80}. "
            "Leave the key out where answers are free text."
        )
    for index, instance in enumerate(instances):
        if known.isdisjoint(output.strip() for output in instance.outputs):
            raise ValueError(
                f"{where}: Instances[{index}]['output']: none of {list(instance.outputs)!r:.80} is "
                f"among 'Answer Choices', {list(choices)!r:.80}, so no choice would be right. "
                "Write both alike, capitals included."
            )
    return choices


def _outputs(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    outputs = _texts(row, "output", where)
    if not outputs:
        raise ValueError(f"{where} has no 'output'.")
    return outputs


def _rows(data: Mapping[str, Any], key: str, where: str) -> Sequence[Mapping[str, Any]]:
    return [] if data.get(key) in _EMPTY else reading.objects(data, key, where)


def _texts(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A string or a list of strings, as a tuple; a missing value is empty."""
    value = row.get(key)
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise ValueError(
            f"{where}: {key!r} must be a string or a list of strings, got {value!r:.80}."
        )
    return tuple(values)
