"""The schema of a database, as Spider's `tables.json` states it.

    [{"db_id": "shop", "table_names_original": ["Item", …], "column_names_original": [[-1, "*"],
      [0, "Item_ID"], …], "foreign_keys": [[4, 1], …], "primary_keys": [1, …], …}, …]

Column indices count from the ``*`` at 0; the table index of a column is its place in the tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

STAR = "__all__"

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class DatabaseSchema:
    """Tables, columns and keys under the names that queries use.

    Attributes:
      db_id: the database's name.
      tables: their names.
      columns: (index of the table, name); the first is ``(-1, "*")``.
      foreign_keys: pairs of column indices.
      primary_keys: column indices.
    """

    db_id: str
    tables: tuple[str, ...]
    columns: tuple[tuple[int, str], ...]
    foreign_keys: tuple[tuple[int, int], ...] = ()
    primary_keys: tuple[int, ...] = ()

    @cached_property
    def columns_by_table(self) -> Mapping[str, frozenset[str]]:
        """Lower-cased table -> its lower-cased columns."""
        found: dict[str, set[str]] = {name.lower(): set() for name in self.tables}
        for table, column in self.columns:
            if table >= 0:
                found[self.tables[table].lower()].add(column.lower())
        return {name: frozenset(columns) for name, columns in found.items()}

    @cached_property
    def key_classes(self) -> Mapping[str, str]:
        """Column that takes part in a foreign key -> the one that stands for all it is joined with.

        As in Spider's evaluation: keys are grouped greedily in the order they are listed, so two
        groups that only a later key connects stay apart.
        """
        groups: list[set[int]] = []
        for pair in self.foreign_keys:
            group = next((g for g in groups if not g.isdisjoint(pair)), None)
            if group is None:
                groups.append(group := set())
            group.update(pair)
        names = [STAR if t < 0 else column_id(self.tables[t], name) for t, name in self.columns]
        # A column of several groups belongs to the last.
        return {names[index]: names[min(group)] for group in groups for index in group}

    @staticmethod
    def from_json(data: Any, where: str = "schema") -> DatabaseSchema:
        """One entry of `tables.json`; further keys are ignored.

        Raises:
          ValueError: that starts with `where` and names the key that is wrong.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("db_id"), str):
            raise ValueError(f"{where}: a schema is a JSON object with a string 'db_id'.")
        where = f"{where}: schema of {data['db_id']!r}"
        tables = data.get("table_names_original")
        if not _is_list(tables, str):
            raise ValueError(f"{where}: 'table_names_original' must be a list of strings.")
        columns = data.get("column_names_original")
        if not _is_list(columns, list) or not all(_is_column(c, len(tables)) for c in columns):
            raise ValueError(
                f"{where}: 'column_names_original' must be a list of [table index, name] with "
                f"table indices from -1 to {len(tables) - 1}."
            )
        keys, size = data.get("foreign_keys", []), len(columns)
        if not _is_list(keys, list) or not all(len(k) == 2 and _are_indices(k, size) for k in keys):
            raise ValueError(f"{where}: 'foreign_keys' must be pairs of column indices.")
        primary = data.get("primary_keys", [])
        # Composite keys are lists in some releases.
        primary = [i for key in primary for i in (key if isinstance(key, list) else [key])]
        if not _are_indices(primary, size):
            raise ValueError(f"{where}: 'primary_keys' must be column indices.")
        return DatabaseSchema(
            db_id=data["db_id"],
            tables=tuple(tables),
            columns=tuple((table, name) for table, name in columns),
            foreign_keys=tuple((a, b) for a, b in keys),
            primary_keys=tuple(primary),
        )

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {
            "db_id": self.db_id,
            "table_names_original": list(self.tables),
            "column_names_original": [list(column) for column in self.columns],
            "foreign_keys": [list(key) for key in self.foreign_keys],
            "primary_keys": list(self.primary_keys),
        }


def load_schemas(path: str | Path) -> dict[str, DatabaseSchema]:
    """Reads `tables.json`: db_id -> schema.

    Raises:
      ValueError: naming the file, and the line or the database that is wrong.
    """
    try:
        data = json.loads(Path(path).read_bytes().decode("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid UTF-8 JSON ({error}).") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    if not isinstance(data, list):
        raise ValueError(f"{path}: expected a list of schemas, got {type(data).__name__}.")
    schemas: dict[str, DatabaseSchema] = {}
    for index, entry in enumerate(data):
        schema = DatabaseSchema.from_json(entry, f"{path}: entry {index}")
        if schema.db_id in schemas:
            raise ValueError(f"{path}: entry {index}: {schema.db_id!r} is there twice.")
        schemas[schema.db_id] = schema
    return schemas


def column_id(table: str, column: str) -> str:
    """The name of a column in parsed queries (Spider's)."""
    return f"__{table.lower()}.{column.lower()}__"


def table_id(table: str) -> str:
    """The name of a table in parsed queries (Spider's)."""
    return f"__{table.lower()}__"


def _is_list(value: Any, item: type[_T]) -> TypeGuard[list[_T]]:
    return isinstance(value, list) and all(isinstance(x, item) for x in value)


def _are_indices(values: Iterable[Any], size: int) -> bool:
    return all(type(value) is int and 0 <= value < size for value in values)


def _is_column(value: list[Any], num_tables: int) -> bool:
    if len(value) != 2 or type(value[0]) is not int or not isinstance(value[1], str):
        return False
    return -1 <= value[0] < num_tables
