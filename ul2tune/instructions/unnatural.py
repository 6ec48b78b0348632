"""Unnatural Instructions: rows of the core and the full data -> records.

    {"instruction", "instances": [{"instruction_with_input", "input", "constraints", "output"}, …],
     "reformulations": [{"instruction", "instruction_with_input", "input", "output"}, …]}

Source: Honovich et al. 2022 (arXiv:2212.09689) and its repository (MIT). The core data has no
reformulations: paraphrases of the instruction, each with an instance of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ul2tune.instructions import reading, row_files
from ul2tune.instructions.records import Record, Rendered

BENCHMARK = "unnatural_instructions"


def load(path: str | Path, *, reformulations: bool = True) -> Iterator[Record]:
    """The records of a file, each instance followed by the next, then the reformulations.

    `reformulations` False leaves these out.

    Raises:
      ValueError: naming file and line, the key that is wrong, and what it must be.
    """
    return row_files.load(path, functools.partial(parse, reformulations=reformulations))


def parse(
    row: Mapping[str, Any], where: str, identity: str, *, reformulations: bool = True
) -> tuple[Record, ...]:
    """One row's records (`row_files.Parser`)."""
    instruction = reading.string(row, "instruction", where)
    lists = {"instances": reading.objects(row, "instances", where)}
    if reformulations and "reformulations" in row:
        lists["reformulations"] = reading.objects(row, "reformulations", where)
    return tuple(
        _record(item, f"{where}: {key}[{index}]", f"{identity}-{key[0]}{index}", key, instruction)
        for key, items in lists.items()
        for index, item in enumerate(items)
    )


def render(record: Record, seed: int = 0) -> Rendered:
    """The instruction with its input, as the data states it.

    The constraints on the output, which the data keeps apart, are not part of it.
    """
    del seed
    return Rendered(inputs=record.input, targets=record.targets[0])


def _record(item: Mapping[str, Any], where: str, identity: str, kind: str, first: str) -> Record:
    # The prompt states the instruction, so the record's stays empty; it is checked nevertheless.
    reading.string(item, "instruction", where, first)
    return Record(
        id=identity,
        task=BENCHMARK,
        category=kind,
        benchmark=BENCHMARK,
        license="MIT",
        input=reading.string(item, "instruction_with_input", where),
        targets=(reading.string(item, "output", where),),
        metric_names=("rouge_l",),
    )
