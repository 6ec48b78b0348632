"""Clause-by-clause comparison of parsed queries, as Spider's evaluation does it.

Two queries are first made comparable (values dropped, joined columns named alike), then every
component is matched as a bag of items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ul2tune.metrics.sql_query import (
    OPERATORS,
    Column,
    Condition,
    Conditions,
    Order,
    Query,
    Value,
)
from ul2tune.metrics.sql_schema import DatabaseSchema

LIKE, _IN = OPERATORS.index("like"), OPERATORS.index("in")


class Matched(NamedTuple):
    """How much of one component matched: numbers of items in gold, in the prediction, in both.

    A component is right when all three agree, so a component that neither has is right.
    """

    gold: int
    predicted: int
    common: int

    @property
    def right(self) -> bool:
        """Whether the component matches as a whole."""
        return self.gold == self.predicted == self.common


def compare(found: Query, expected: Query) -> dict[str, Matched]:
    """Every component of two queries that :func:`comparable` returned."""
    return {name: function(found, expected) for name, function in COMPONENTS.items()}


# --- components: (prediction, gold) -> Matched ---


def _select(found: Query, expected: Query) -> Matched:
    return _bags(found.select, expected.select)


def _select_no_aggregate(found: Query, expected: Query) -> Matched:
    return _bags([item.value for item in found.select], [item.value for item in expected.select])


def _where(found: Query, expected: Query) -> Matched:
    return _bags(found.where[::2], expected.where[::2])


def _where_no_operator(found: Query, expected: Query) -> Matched:
    return _bags(*([c[2:3] for c in query.where[::2]] for query in (found, expected)))


def _group_no_having(found: Query, expected: Query) -> Matched:
    # Without the table: `group by t1.id` and `group by t2.id` are the same.
    names = [[c.column.partition(".")[2] or c.column for c in q.group] for q in (found, expected)]
    return _bags(*names)


def _group(found: Query, expected: Query) -> Matched:
    same = [c.column for c in found.group] == [c.column for c in expected.group]
    both = bool(found.group and expected.group)
    common = both and same and found.having == expected.having
    return Matched(int(bool(expected.group)), int(bool(found.group)), int(common))


def _order(found: Query, expected: Query) -> Matched:
    limits = (found.limit is None) == (expected.limit is None)
    common = expected.order is not None and found.order == expected.order and limits
    return Matched(int(expected.order is not None), int(found.order is not None), int(common))


def _and_or(found: Query, expected: Query) -> Matched:
    words = [set(query.where[1::2]) for query in (found, expected)]
    if words[0] == words[1]:
        return Matched(1, 1, 1)
    # In the reference, gold and prediction have changed places here.
    return Matched(len(words[0]), len(words[1]), 0)


def _set_operations(found: Query, expected: Query) -> Matched:
    counts = [0, 0, 0]
    for name in ("intersect", "except_", "union"):
        theirs, ours = getattr(found, name), getattr(expected, name)
        counts[0] += ours is not None
        counts[1] += theirs is not None
        if theirs is not None and ours is not None:
            counts[2] += all_match(compare(theirs, ours), theirs, ours)
    return Matched(*counts)


def _keywords(found: Query, expected: Query) -> Matched:
    theirs, ours = _words(found), _words(expected)
    return Matched(len(ours), len(theirs), len(theirs & ours))


COMPONENTS: Mapping[str, Callable[[Query, Query], Matched]] = {
    "select": _select,
    "select(no AGG)": _select_no_aggregate,
    "where": _where,
    "where(no OP)": _where_no_operator,
    "group(no Having)": _group_no_having,
    "group": _group,
    "order": _order,
    "and/or": _and_or,
    "IUEN": _set_operations,
    "keywords": _keywords,
}


def all_match(components: Mapping[str, Matched], found: Query, expected: Query) -> bool:
    """Whether all components match, and the tables where the gold query joins several."""
    if not all(matched.right for matched in components.values()):
        return False
    return len(expected.tables) < 2 or _bags(found.tables, expected.tables).right


def same_tables(found: Query, expected: Query) -> bool:
    """Whether two queries that match read the same tables, attached queries included."""
    names = ("intersect", "except_", "union")
    pairs = [(getattr(found, name), getattr(expected, name)) for name in names]
    below = [same_tables(theirs, ours) for theirs, ours in pairs if theirs and ours]
    return all(below) and _bags(found.tables, expected.tables).right


def _bags(found: Sequence[Any], expected: Sequence[Any]) -> Matched:
    """Compares two lists as bags; items need equality only."""
    left = list(expected)
    common = 0
    for item in found:
        if item in left:
            left.remove(item)
            common += 1
    return Matched(len(expected), len(found), common)


def _words(query: Query) -> set[str]:
    units = [*query.joins[::2], *query.where[::2], *query.having[::2]]
    present = {
        "where": query.where,
        "group": query.group,
        "having": query.having,
        "order": query.order is not None,
        "limit": query.limit is not None,
        "except": query.except_ is not None,
        "union": query.union is not None,
        "intersect": query.intersect is not None,
        "or": "or" in connectors(query),
        "not": any(unit[0] for unit in units),
        "in": any(unit[1] == _IN for unit in units),
        "like": any(unit[1] == LIKE for unit in units),
    }
    words = {word for word, value in present.items() if value}
    return words | ({query.order.direction} if query.order else set())


def connectors(query: Query) -> list[Any]:
    """Every ``"and"`` and ``"or"`` between conditions."""
    return [*query.joins[1::2], *query.where[1::2], *query.having[1::2]]


# --- what is not compared ---


def comparable(query: Query, schema: DatabaseSchema) -> Query:
    """The query without what is not compared: values, `distinct`, which of two joined columns."""
    tables = {table.source for table in query.tables if table.kind == "table_unit"}
    keys = {
        column: key
        for column, key in schema.key_classes.items()
        if "." in column and column[: column.index(".")] + "__" in tables
    }
    return _with_keys(_without_values(query), keys)


def _without_values(query: Query) -> Query:
    """Drops values: numbers, strings and columns on the right-hand side. Queries stay."""

    def operand(value: Any) -> Query | None:
        return _without_values(value) if isinstance(value, Query) else None

    def clean(conditions: Conditions) -> Conditions:
        return tuple(
            item._replace(low=operand(item.low), high=operand(item.high))
            if index % 2 == 0 and isinstance(item, Condition)
            else item
            for index, item in enumerate(conditions)
        )

    return replace(
        query,
        joins=clean(query.joins),
        where=clean(query.where),
        having=clean(query.having),
        intersect=operand(query.intersect),
        except_=operand(query.except_),
        union=operand(query.union),
    )


def _with_keys(query: Query, keys: Mapping[str, str]) -> Query:
    """Writes one column for all that are joined by foreign keys, and drops `distinct`.

    Not in nested queries, except those that `union` and its like attach.
    """

    def column(unit: Column) -> Column:
        return Column(unit.aggregate, keys.get(unit.column, unit.column), None)

    def value(unit: Value) -> Value:
        return Value(unit.operator, column(unit.left), unit.right and column(unit.right))

    def clean(conditions: Conditions) -> Conditions:
        return tuple(
            item._replace(value=value(item.value))
            if index % 2 == 0 and isinstance(item, Condition)
            else item
            for index, item in enumerate(conditions)
        )

    def attached(below: Query | None) -> Query | None:
        return None if below is None else _with_keys(below, keys)

    return replace(
        query,
        distinct=None,
        select=tuple(item._replace(value=value(item.value)) for item in query.select),
        joins=clean(query.joins),
        where=clean(query.where),
        group=tuple(map(column, query.group)),
        having=clean(query.having),
        order=query.order and Order(query.order.direction, tuple(map(value, query.order.values))),
        intersect=attached(query.intersect),
        except_=attached(query.except_),
        union=attached(query.union),
    )
