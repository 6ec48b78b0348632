"""Database schemas as UnifiedSKG writes them for Spider, and its form of SQL.

    | shop | item : item_id , name ( Red Chair ) , price | sale : item_id , year

Source: `seq2seq_construction/spider.py` of HKUNLP/UnifiedSKG, after PICARD (Scholak et al. 2021,
arXiv:2109.05093) and Shaw et al. 2021 (arXiv:2010.12725).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ul2tune.instructions.skg.values import match_values
from ul2tune.metrics.sql_schema import DatabaseSchema

# (db_id, table, column) -> its texts: `skg.values.DatabaseValues`.
ColumnValues = Callable[[str, str, str], Sequence[str]]

# Words that no quotation mark touches. Inside a string of several words, that is all but the outer
# ones: their case is lost, as it is in the reference.
_WORD = re.compile(r"(?<![\w'\"])\w+(?![\w'\"])")


def linearize(
    schema: DatabaseSchema, question: str = "", values: ColumnValues | None = None
) -> str:
    """Tables with their columns, lower-cased, after the database's name.

    Args:
      schema: the ``*`` is left out.
      question: what `values` are looked up for.
      values: of columns; those the question mentions stand in brackets. None = no values.
    """
    tables = []
    for index, table in enumerate(schema.tables):
        names = [name for place, name in schema.columns if place == index]
        columns = [_with_values(schema, table, name, question, values) for name in names]
        tables.append(f" | {table.lower()} : {' , '.join(columns)}")
    return f"| {schema.db_id}{''.join(tables)}".strip()


def describe(schema: DatabaseSchema, question: str = "", values: ColumnValues | None = None) -> str:
    """The schema in sentences: UnifiedSKG's `schema_serialization_with_nl`.

    A foreign key is described by the names of the columns that follow its own, because the
    reference leaves the ``*`` out of the list that it indexes with the ``*`` counted.

    Raises:
      ValueError: if there is one table, and a foreign key whose column is the schema's last.
    """
    tables = [name.lower() for name in schema.tables]
    parts = [f"{schema.db_id} contains tables such as {', '.join(tables)}."]
    for index, table in enumerate(schema.tables):
        columns = [(i, n) for i, (t, n) in enumerate(schema.columns) if t == index and i]
        keys = [name.lower() for i, name in columns if i in schema.primary_keys]
        names = ", ".join(name.lower() for _, name in columns)
        parts.append(f"Table {tables[index]} has columns such as {names}.")
        parts.append(f"{', '.join(keys)} is the primary key.")
        found = [(name, _mentioned(schema, table, name, question, values)) for _, name in columns]
        mentioned = [
            f"The {name.lower()} contains values such as {', '.join(texts)}."
            for name, texts in found
            if texts
        ]
        parts += ["".join(mentioned)] if mentioned else []
    # The reference lists all columns once per table.
    shifted = [name.lower() for _, name in schema.columns[1:]] * len(tables)
    for pair in schema.foreign_keys:
        if max(pair) >= len(shifted):
            raise ValueError(f"foreign key {pair} of {schema.db_id!r} cannot be described.")
        (a, b), (ta, tb) = pair, (tables[schema.columns[i][0]] for i in pair)
        parts.append(f"The {shifted[a]} of {ta} is the foreign key of {shifted[b]} of {tb}.")
    return " ".join(parts)


def normalize_sql(query: str) -> str:
    """The query as a target: lower-cased outside quotation marks, single spaces, no space before
    a comma that stands between two.
    """
    lowered = _WORD.sub(lambda match: match.group().lower(), query)
    return " ".join(lowered.split()).replace(" , ", ", ")


def _with_values(
    schema: DatabaseSchema, table: str, column: str, question: str, values: ColumnValues | None
) -> str:
    texts = _mentioned(schema, table, column, question, values)
    return f"{column.lower()} ( {' , '.join(texts)} )" if texts else column.lower()


def _mentioned(
    schema: DatabaseSchema, table: str, column: str, question: str, values: ColumnValues | None
) -> list[str]:
    if values is None or table == "sqlite_sequence":
        return []
    return match_values(question, values(schema.db_id, table, column), column)
