"""Alpaca: rows ``{"instruction", "input", "output"}`` and its prompt.

Source: the `tatsu-lab/stanford_alpaca` repository (Apache-2.0; its data are CC BY-NC). Many data
sets have its rows and many models its prompt, which is spelled out in :data:`PROMPT`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ul2tune.instructions import row_files, self_instruct
from ul2tune.instructions.records import Record, Rendered

BENCHMARK = "alpaca"
# What models trained with it expect, to the byte.
PROMPT = (
    "Below is an instruction that describes a task{further}. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:"
)
_FURTHER = ", paired with an input that provides further context"


def load(path: str | Path) -> Iterator[Record]:
    """The records of a file of rows (`alpaca_data.json`, or JSON lines), in order.

    Raises:
      ValueError: naming the file, the row and what is wrong there.
    """
    return row_files.load(path, parse)


def parse(row: Mapping[str, Any], where: str, identity: str) -> tuple[Record, ...]:
    """One row's record (`row_files.Parser`)."""
    if missing := [key for key in ("instruction", "output") if key not in row]:
        raise ValueError(f"{where}: {missing[0]!r} is missing.")
    records = self_instruct.parse(row, where, identity)
    return tuple(replace(r, task=BENCHMARK, benchmark=BENCHMARK) for r in records)


def render(record: Record, seed: int = 0) -> Rendered:
    """Alpaca's prompt; the output is the target, as it is."""
    del seed
    text = record.input
    return Rendered(
        inputs=PROMPT.format(
            further=_FURTHER if text else "",
            instruction=record.instruction,
            input=f"### Input:\n{text}\n\n" if text else "",
        ),
        targets=record.targets[0],
    )
