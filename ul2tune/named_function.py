"""Functions by name: how prepared data says what a later process is to call.

NamedFunction.of(functools.partial(to_class, label_classes=["no", "yes"]))
# {"name": "my_tasks:to_class", "args": [], "kwargs": {"label_classes": ["no", "yes"]}}
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class NamedFunction:
    """A function of a module, with arguments that are bound already.

    Attributes:
      name: ``package.module:function``, or a method's ``package.module:Class.method``.
      args, kwargs: JSON values, as of a `functools.partial`.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(function: Callable) -> NamedFunction | None:
        """Names a function, or a partial of one with arguments that JSON can hold; tuples among
        them become lists. None where another process would not find the same: of a lambda, a local
        function, an object.
        """
        args, kwargs = (), {}
        if isinstance(function, functools.partial):
            function, args, kwargs = function.func, function.args, function.keywords
        module = getattr(function, "__module__", None)
        name = f"{module}:{getattr(function, '__qualname__', '')}"
        bound = _as_json([list(args), kwargs])
        try:
            if module == "__main__" or bound is None or find(name) != function:
                return None
        except (ImportError, AttributeError, ValueError):
            return None
        return NamedFunction(name=name, args=tuple(bound[0]), kwargs=bound[1])

    @staticmethod
    def from_json(data: Any) -> NamedFunction:
        """What is stored: as `dataclasses.asdict` gives it, with a list of `args`.

        Raises:
          ValueError: if it is anything else.
        """
        kinds = {"name": str, "args": list, "kwargs": dict}
        if not isinstance(data, dict) or {name: type(data[name]) for name in data} != kinds:
            raise ValueError(f"{data!r:.80} is not a function's name, args and kwargs")
        return NamedFunction(**{**data, "args": tuple(data["args"])})

    def resolve(self) -> Callable[..., Any]:
        """Imports the function.

        Raises:
          ValueError: if it cannot be imported.
        """
        try:
            function = find(self.name)
        except Exception as error:  # a module of the user's may raise anything
            raise ValueError(
                f"{self.name!r} cannot be imported ({type(error).__name__}: {error})"
            ) from error
        if not callable(function):
            raise ValueError(f"{self.name!r} is not a function but {function!r:.80}")
        return functools.partial(function, *self.args, **self.kwargs)


def find(name: str) -> Any:
    """What is called ``package.module:qualified.name`` or ``package.module.name``.

    Raises:
      ImportError, AttributeError, ValueError: if there is no such thing.
    """
    module, separator, path = name.partition(":")
    if not separator:
        module, _, path = name.rpartition(".")
    return functools.reduce(getattr, path.split("."), importlib.import_module(module))


def _as_json(value: Any) -> Any:
    """The value with lists for tuples; None if JSON would make something else of it."""
    try:
        found = json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return None
    return found if found == _listed(value) else None


def _listed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value
