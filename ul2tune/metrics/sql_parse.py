"""SQL text and schema -> `sql_query.Query`, by the grammar of Spider's evaluation.

The reference is `process_sql.py` of taoyds/spider. What it accepts and refuses decides scores, so
its grammar is followed to the token, oddities included: an alias needs ``as``; conditions may stand
side by side without ``and``; a value in brackets that is no query is not read; everything after
what it understands is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from ul2tune.metrics.sql_query import (
    AGGREGATES,
    ARITHMETIC,
    OPERATORS,
    Column,
    Condition,
    Conditions,
    Operand,
    Order,
    Query,
    Selected,
    Table,
    Value,
)
from ul2tune.metrics.sql_schema import STAR, DatabaseSchema, column_id, table_id
from ul2tune.metrics.sql_tokens import SqlError, tokenize

# DIVERGES: the reference nests until Python's stack ends, at about 200 queries in each other.
MAX_DEPTH = 64

CLAUSES = ("select", "from", "where", "group", "order", "limit", "intersect", "union", "except")
JOINS = ("join", "on", "as")
ENDS = (")", ";")
SET_OPERATIONS = ("intersect", "union", "except")

_T = TypeVar("_T")


def parse(query: str, schema: DatabaseSchema) -> Query:
    """Parses a query over a schema.

    Args:
      query: SQL text.
      schema: of its database; unknown names are refused.

    Raises:
      SqlError: saying what was expected and where, in words short enough for a report.
    """
    tokens = tokenize(query)
    return _Parser(tokens, _tables(tokens, schema), schema).query()


def _tables(tokens: list[str], schema: DatabaseSchema) -> dict[str, str]:
    """Names and aliases -> tables; an alias counts in the whole text, nested queries included."""
    aliases: dict[str, str] = {}
    for index, token in enumerate(tokens):
        if token == "as":
            if index + 1 == len(tokens):
                raise SqlError("the query ends after 'as'")
            aliases[tokens[index + 1]] = tokens[index - 1]
    for name in schema.columns_by_table:
        if name in aliases:
            raise SqlError(f"alias {name!r} is the name of a table")
        aliases[name] = name
    return aliases


class _Parser:
    """A position in the tokens, and one method per rule of the grammar, which moves it."""

    def __init__(self, tokens: list[str], aliases: Mapping[str, str], schema: DatabaseSchema):
        self._tokens, self._aliases, self._schema = tokens, aliases, schema
        self._at, self._depth = 0, 0

    # --- tokens ---

    @property
    def _next(self) -> str:
        """The next token; at the end of the text that is an error."""
        if self._at >= len(self._tokens):
            raise SqlError("the query ends too early")
        return self._tokens[self._at]

    @property
    def _done(self) -> bool:
        return self._at >= len(self._tokens)

    def _is(self, *tokens: str) -> bool:
        return not self._done and self._tokens[self._at] in tokens

    def _skip(self, *tokens: str) -> bool:
        found = self._is(*tokens)
        self._at += found
        return found

    def _expect(self, token: str) -> None:
        if self._next != token:
            raise SqlError(f"expected {token!r} at token {self._at}, found {_short(self._next)}")
        self._at += 1

    # --- names and values ---

    def _name(self, scope: list[str]) -> str:
        token = self._next
        self._at += 1
        if token == "*":
            return STAR
        if "." in token:
            alias, _, column = token.partition(".")
            tables = [self._table_of(alias)]
        else:
            column, tables = token, [self._table_of(table) for table in scope]
        for table in tables:
            if column in self._schema.columns_by_table.get(table, ()):
                return column_id(table, column)
        raise SqlError(f"no column {_short(token)} in {tables or 'any table of the query'}")

    def _table_of(self, alias: str) -> str:
        if alias not in self._aliases:
            raise SqlError(f"no table or alias {_short(alias)}")
        return self._aliases[alias]

    def _column(self, scope: list[str]) -> Column:
        bracket = self._skip("(")
        if self._next in AGGREGATES:
            aggregate = AGGREGATES.index(self._next)
            self._at += 1
            self._expect("(")
            distinct = self._skip("distinct")
            column = Column(aggregate, self._name(scope), distinct)
            self._expect(")")
            return column  # a bracket around it stays open, as in the reference
        distinct = self._skip("distinct")
        column = Column(0, self._name(scope), distinct)
        if bracket:
            self._expect(")")
        return column

    def _value(self, scope: list[str]) -> Value:
        bracket = self._skip("(")
        left, operator, right = self._column(scope), 0, None
        if self._is(*ARITHMETIC):
            operator = ARITHMETIC.index(self._next)
            self._at += 1
            right = self._column(scope)
        if bracket:
            self._expect(")")
        return Value(operator, left, right)

    def _operand(self, scope: list[str]) -> Operand:
        start = self._at
        bracket = self._skip("(")
        token = self._next
        value: Operand
        if token == "select":
            value = self.query()
        elif '"' in token:
            value = token
            self._at += 1
        elif (number := _number(token)) is not None:
            value = number
            self._at += 1
        else:
            stops = {",", ")", "and", *CLAUSES, *JOINS}
            while not self._done and self._tokens[self._at] not in stops:
                self._at += 1
            inside = self._tokens[start : self._at]
            value = _Parser(inside, self._aliases, self._schema)._column(scope)
        if bracket:
            self._expect(")")
        return value

    def _conditions(self, scope: list[str]) -> Conditions:
        found: list[Condition | str] = []
        while not self._done:
            value = self._value(scope)
            negated = self._skip("not")
            if self._next not in OPERATORS:
                raise SqlError(f"expected a comparison, found {_short(self._next)}")
            operator = OPERATORS.index(self._next)
            self._at += 1
            low, high = self._operand(scope), None
            if OPERATORS[operator] == "between":
                self._expect("and")
                high = self._operand(scope)
            found.append(Condition(negated, operator, value, low, high))
            if self._is(*CLAUSES, *ENDS, *JOINS):
                break
            if self._is("and", "or"):
                found.append(self._next)
                self._at += 1
        return tuple(found)

    # --- clauses ---

    def query(self) -> Query:
        """One query, with what `union` and its like attach to it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SqlError(f"queries are nested more than {MAX_DEPTH} deep")
        bracket = self._skip("(")
        start = self._at
        tables, joins, scope = self._from()
        end, self._at = self._at, start
        distinct, select = self._select(scope)
        self._at = end
        where = self._conditions(scope) if self._skip("where") else ()
        group = self._list("group", lambda: self._column(scope)) or ()
        having = self._conditions(scope) if self._skip("having") else ()
        order = self._order(scope)
        limit = self._limit()
        self._skip_semicolons()
        if bracket:
            self._expect(")")
        self._skip_semicolons()
        attached: dict[str, Query] = {}
        if self._is(*SET_OPERATIONS):
            operation = self._next
            self._at += 1
            attached[operation.replace("except", "except_")] = self.query()
        self._depth -= 1
        return Query(
            distinct=distinct,
            select=select,
            tables=tables,
            joins=joins,
            where=where,
            group=group,
            having=having,
            order=order,
            limit=limit,
            **attached,
        )

    def _from(self) -> tuple[tuple[Table, ...], Conditions, list[str]]:
        """The next `from` of the text, wherever it stands; it says where columns are looked up."""
        try:
            self._at = self._tokens.index("from", self._at) + 1
        except ValueError as error:
            raise SqlError("a query has no 'from'") from error
        tables: list[Table] = []
        joins: list[Condition | str] = []
        scope: list[str] = []
        while not self._done:
            bracket = self._skip("(")
            if self._next == "select":
                tables.append(Table("sql", self.query()))
            else:
                self._skip("join")
                name = self._table_of(self._next)
                if name not in self._schema.columns_by_table:
                    raise SqlError(f"no table {_short(name)}")
                self._at += 1
                if self._is("as"):
                    self._at += 2
                tables.append(Table("table_unit", table_id(name)))
                scope.append(name)
            if self._skip("on"):
                found = self._conditions(scope)
                joins += ["and", *found] if joins else found
            if bracket:
                self._expect(")")
            if self._is(*CLAUSES, *ENDS):
                break
        return tuple(tables), tuple(joins), scope

    def _select(self, scope: list[str]) -> tuple[bool, tuple[Selected, ...]]:
        self._expect("select")
        distinct = self._skip("distinct")
        items: list[Selected] = []
        while not self._done and not self._is(*CLAUSES):
            aggregate = 0
            if self._is(*AGGREGATES):
                aggregate = AGGREGATES.index(self._next)
                self._at += 1
            items.append(Selected(aggregate, self._value(scope)))
            self._skip(",")
        return distinct, tuple(items)

    def _list(self, keyword: str, item: Callable[[], _T]) -> tuple[_T, ...] | None:
        """``keyword by item, item``; None if the keyword is not next."""
        if not self._skip(keyword):
            return None
        self._expect("by")
        items: list[_T] = []
        while not self._done and not self._is(*CLAUSES, *ENDS):
            items.append(item())
            if not self._skip(","):
                break
        return tuple(items)

    def _order(self, scope: list[str]) -> Order | None:
        direction = "asc"

        def item() -> Value:
            nonlocal direction
            value = self._value(scope)
            if self._is("asc", "desc"):
                direction = self._next
                self._at += 1
            return value

        values = self._list("order", item)
        return None if values is None else Order(direction, values)

    def _limit(self) -> int | None:
        if not self._skip("limit"):
            return None
        token = self._next
        self._at += 1
        try:
            return int(token)
        except ValueError as error:
            raise SqlError(f"limit {_short(token)} is no whole number") from error

    def _skip_semicolons(self) -> None:
        while self._skip(";"):
            pass


def _number(token: str) -> float | None:
    try:
        return float(token)
    except ValueError:
        return None


def _short(token: str) -> str:
    return repr(token if len(token) <= 40 else token[:37] + "...")
