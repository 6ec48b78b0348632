"""A parsed SQL query: the parts that Spider's evaluation tells apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

OPERATORS = (
    *("not", "between", "=", ">", "<", ">=", "<=", "!="),
    *("in", "like", "is", "exists"),
)
ARITHMETIC = ("none", "-", "+", "*", "/")
AGGREGATES = ("none", "max", "min", "count", "sum", "avg")


class Column(NamedTuple):
    """A column, perhaps aggregated; `aggregate` is an index of `AGGREGATES`."""

    aggregate: int
    column: str
    distinct: bool | None


class Value(NamedTuple):
    """A column, or two with an operator between them (an index of `ARITHMETIC`)."""

    operator: int
    left: Column
    right: Column | None


class Selected(NamedTuple):
    """One item of a select list."""

    aggregate: int
    value: Value


class Condition(NamedTuple):
    """A comparison; `operator` is an index of `OPERATORS`, `high` the second value of `between`."""

    negated: bool
    operator: int
    value: Value
    low: Operand
    high: Operand


class Table(NamedTuple):
    """What a query selects from: a table's id (`kind` "table_unit") or a query ("sql")."""

    kind: str
    source: str | Query


class Order(NamedTuple):
    """What follows ``order by``; `direction`, "asc" or "desc", is the last one stated."""

    direction: str
    values: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A parsed query. Conditions alternate with ``"and"`` and ``"or"``."""

    distinct: bool | None = False
    select: tuple[Selected, ...] = ()
    tables: tuple[Table, ...] = ()
    joins: Conditions = ()
    where: Conditions = ()
    group: tuple[Column, ...] = ()
    having: Conditions = ()
    order: Order | None = None
    limit: int | None = None
    intersect: Query | None = None
    union: Query | None = None
    except_: Query | None = None


Operand = str | float | Column | Query | None
Conditions = tuple[Condition | str, ...]
