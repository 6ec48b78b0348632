"""Tables as UnifiedSKG writes them, within a token budget.

    col : year | city row 1 : 1896 | athens row 2 : 1900 | paris

Source: the table processor of HKUNLP/UnifiedSKG, which is that of TAPEX (Liu et al. 2022,
arXiv:2107.07653; microsoft/Table-Pretraining). Tokens are counted by the model's vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ul2tune.instructions.tokenizer import Tokenizer, cut_text

CELL_TOKENS = 15
TABLE_TOKENS = 1024
# Rows this close to one that names an answer or a word of the request are kept with it.
_NEIGHBOURS = 2


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text; rows may be ragged."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @staticmethod
    def from_json(data: Any, where: str = "table") -> Table:
        """Parses ``{"header": ["a", …], "rows": [["1", …], …]}``; numbers become text.

        Raises:
          ValueError: that starts with `where` and names the row that is wrong.
        """
        if not isinstance(data, Mapping) or not {"header", "rows"} <= set(data):
            raise ValueError(f"{where}: a table is a JSON object with 'header' and 'rows'.")
        rows = data["rows"]
        if not isinstance(rows, list):
            raise ValueError(f"{where}: 'rows' must be a list, got {type(rows).__name__}.")
        return Table(
            header=_cells(data["header"], f"{where}: 'header'"),
            rows=tuple(_cells(row, f"{where}: row {i}") for i, row in enumerate(rows, start=1)),
        )


def linearize(table: Table) -> str:
    """The table as text, in its own case; rows are numbered from 1."""
    rows = (_row(row, number) for number, row in enumerate(table.rows, start=1))
    return " ".join([_header(table.header), *rows]).strip()


def truncate(
    table: Table,
    request: str,
    answers: Sequence[str] = (),
    *,
    tokenizer: Tokenizer,
    rng: random.Random,
    cell_tokens: int = CELL_TOKENS,
    max_tokens: int = TABLE_TOKENS,
) -> tuple[Table, tuple[str, ...]]:
    """Cuts a table until it fits beside the request.

    Cells of `cell_tokens` tokens or more keep their first so many. If the rows do not fit the
    budget that request and header leave, about as many as are too many are deleted at random: never
    those that share a cell with the answers or the words of the request, nor the two on either
    side of these. What still does not fit goes from the end.

    DIVERGES: the reference draws from Python's global generator, whose state depends on all tables
    before. `rng` is the caller's: `random.Random(seed)` handed from table to table in order gives
    the reference's choices for that seed, one per record makes them independent of the order.

    Args:
      table: in its own case.
      request: counted against the budget, and its words protect rows. Their case counts against
        lower-cased cells, so UnifiedSKG lower-cases TabFact's statements, but not WikiTQ's
        questions.
      answers: gold answers, in training only; they protect rows.
      tokenizer: counts tokens, without end of sequence; of an extended vocabulary the one it
        extends, as UnifiedSKG cuts tables before it adds tokens.
      rng: draws rows.
      cell_tokens: budget of a cell.
      max_tokens: budget of request and table, not counting words between them.

    Returns:
      The table, and the answers: those that are cells are cut as they are.
    """
    tokenizer = getattr(tokenizer, "base", tokenizer)
    table, cut = _truncate_cells(table, tokenizer, cell_tokens)
    answers = tuple(cut.get(answer, answer) for answer in answers)
    left = (
        max_tokens - len(tokenizer.encode(request)) - len(tokenizer.encode(_header(table.header)))
    )
    table = _delete_rows(table, request, answers, _surplus(table, left, tokenizer), rng)
    kept = 0
    for number, row in enumerate(table.rows, start=1):
        left -= len(tokenizer.encode(_row(row, number)))
        if left < 0:
            break
        kept += 1
    return replace(table, rows=table.rows[:kept]), answers


def _cells(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise ValueError(f"{where} must be a list, got {type(values).__name__}.")
    for value in values:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ValueError(f"{where} must hold text and numbers, got {value!r}.")
    return tuple(map(str, values))


def _header(header: Sequence[str]) -> str:
    return "col : " + " | ".join(header)


def _row(row: Sequence[str], number: int) -> str:
    return f"row {number} : " + " | ".join(row)


def _truncate_cells(
    table: Table, tokenizer: Tokenizer, tokens: int
) -> tuple[Table, dict[str, str]]:
    cut: dict[str, str] = {}
    for cell in {cell for row in table.rows for cell in row if cell.strip()}:
        if cell.isascii() and len(cell) + 1 < tokens:
            continue  # a token has a character, but for the space a vocabulary puts in front
        shorter = cut_text(cell, tokenizer, tokens)
        if shorter is not None:
            # Transformers' T5 tokenizer strips what it joins: the last piece may be a space.
            cut[cell] = shorter.strip()
    rows = tuple(tuple(cut.get(cell, cell) for cell in row) for row in table.rows)
    return replace(table, rows=rows), cut


def _surplus(table: Table, left: int, tokenizer: Tokenizer) -> float:
    """Estimated share of the rows that is too much."""
    # All rows numbered 100: a rough estimate is enough, and it is the reference's.
    size = len(tokenizer.encode("".join(_row(row, 100) + " " for row in table.rows)))
    return 0.0 if size < left or not size else 1.0 - left / size


def _delete_rows(
    table: Table, request: str, answers: Sequence[str], share: float, rng: random.Random
) -> Table:
    words = {answer.lower() for answer in answers} | set(request.split())
    words |= set(request.strip("?!.,").split(" "))
    related: set[int] = set()
    for index, row in enumerate(table.rows):
        if not words.isdisjoint(cell.lower() for cell in row):
            related.update(range(index - _NEIGHBOURS, index + _NEIGHBOURS + 1))
    unrelated = [index for index in range(len(table.rows)) if index not in related]
    count = min(len(unrelated), int(len(table.rows) * share))
    # With replacement, as in the reference: a row may be drawn twice, and fewer are deleted.
    dropped = set(rng.choices(unrelated, k=count)) if count else set()
    return replace(table, rows=tuple(r for i, r in enumerate(table.rows) if i not in dropped))
