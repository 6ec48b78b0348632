"""Reading the fields of a config.json: their types are checked, and errors name field and value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_SIZE = 2**24
MAX_LAYERS = 10_000


class Fields:
    """A parsed config.json; every method raises ValueError naming the field and its value."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = values

    def error(self, name: str, problem: str = "it is") -> ValueError:
        """``config.json has name = value: <problem> not supported.``"""
        shown = repr(self.values.get(name, "(absent)"))[:200]
        return ValueError(f"config.json has {name} = {shown}: {problem} not supported.")

    def expect(self, name: str, *values: Any) -> None:
        """The field, if it is there (and not null), must be one of `values`."""
        value = self.values.get(name)
        if value is not None and not any(type(value) is type(ok) and value == ok for ok in values):
            allowed = " or ".join(map(repr, values))
            raise self.error(name, f"anything but {allowed} is")

    def one_of(self, name: str, values: Sequence[str]) -> str:
        """The field, which must be there and be one of `values`."""
        value = self.values.get(name)
        if value not in values:
            raise self.error(name, f"anything but {', '.join(values)} is")
        return str(value)

    def positive(self, name: str, default: int | None = None, *, limit: int = MAX_SIZE) -> int:
        """A positive integer up to `limit`; required where there is no default."""
        value = self.values.get(name, default)
        if type(value) is not int or not 1 <= value <= limit:
            raise self.error(name, f"anything but an integer from 1 to {limit} is")
        return value

    def layers(self, name: str, default: int | None = None) -> int:
        """A number of layers: an absurd one must not become a list of as many names."""
        return self.positive(name, default, limit=MAX_LAYERS)

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.values.get(name, default)
        if type(value) not in (int, float) or abs(value) > 1e30:
            raise self.error(name, "anything but a number is")
        return float(value)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        value = self.values.get(name, default)
        if type(value) is not bool:
            raise self.error(name, "anything but true or false is")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self.values.get(name, default)
        if type(value) is not str:
            raise self.error(name, "anything but text is")
        return value
