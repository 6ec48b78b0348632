"""What gin lets pass silently and we do not: what is bound must be used, known and well typed."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ul2tune.cli.gin_source import (
    REQUIRED,
    Binding,
    Location,
    Macro,
    Program,
    Reference,
    Symbol,
    leaves,
    nearest,
)

Scope = tuple[str, ...]


@dataclass
class Reachable:
    """What the roots reach, following references and macros as gin will.

    Attributes:
      macros: the macros used, in order of first use.
      symbols: the functions and classes called, with the scopes they are called in.
    """

    bindings: Mapping[tuple[Scope, int, str], Binding]
    definitions: Mapping[str, Binding]
    macros: dict[str, None] = field(default_factory=dict)
    symbols: dict[int, dict[Scope, None]] = field(default_factory=dict)
    used: set[tuple[Scope, int, str]] = field(default_factory=set)

    def visit(self, symbol: Symbol, scope: Scope, wanted_by: Location | None) -> None:
        """Follows a call of `symbol` in `scope`; gin lets inner scopes override outer ones."""
        scopes = self.symbols.setdefault(id(symbol.value), {})
        if scope in scopes:
            return
        scopes[scope] = None
        effective: dict[str, Binding] = {}
        for end in range(len(scope) + 1):
            for (at, key, parameter), binding in self.bindings.items():
                if at == scope[:end] and key == id(symbol.value):
                    effective[parameter] = binding
                    self.used.add((at, key, parameter))
        missing = [name for name in required_parameters(symbol.value) if name not in effective]
        if missing:
            raise ValueError(
                f"{wanted_by or symbol.path}: {symbol.name} needs a value for "
                f"{', '.join(missing)}. Bind {symbol.name}.{missing[0]} in a gin file."
            )
        for binding in effective.values():
            self.follow(binding.value, scope, binding)

    def follow(self, value: Any, scope: Scope, wanted_by: Binding) -> None:
        for leaf in leaves(value):
            if isinstance(leaf, Reference):
                assert leaf.target is not None, leaf
                self.visit(leaf.target, leaf.scopes or scope, wanted_by.location)
            elif isinstance(leaf, Macro):
                self._follow_macro(leaf, wanted_by)

    def _follow_macro(self, macro: Macro, wanted_by: Binding) -> None:
        if macro == REQUIRED:
            raise ValueError(
                f"{wanted_by.name} is required by {wanted_by.location} and nothing sets it. "
                f"Pass --gin.{wanted_by.name}=… or set it in a gin file."
            )
        if macro.name not in self.definitions:
            raise ValueError(
                f"{wanted_by.location}: %{macro.name} is used by {wanted_by.name} but never defined"
                f"{nearest(macro.name, self.definitions)}."
            )
        if macro.name in self.macros:
            return
        self.macros[macro.name] = None
        definition = self.definitions[macro.name]
        self.follow(definition.value, tuple(macro.name.split("/")), definition)


def reach(program: Program, roots: Sequence[Symbol]) -> Reachable:
    """Follows `roots` through the program.

    Raises:
      ValueError: for a macro that is required or undefined, and a parameter that has no value.
    """
    bindings, definitions = {}, {}
    for binding in program.bindings:  # The last one wins, as in gin.
        if binding.symbol is None:
            definitions[binding.parameter] = binding
        else:
            bindings[binding.scope, id(binding.symbol.value), binding.parameter] = binding
    reachable = Reachable(bindings, definitions)
    for root in roots:
        reachable.visit(root, (), None)
    return reachable


def check_bindings(program: Program) -> None:
    """Every bound parameter exists, and a literal has the type its parameter declares.

    Raises:
      ValueError: naming the nearest parameter, or the type that was expected.
    """
    for binding in program.bindings:
        if binding.symbol is None:
            continue
        parameters = signature(binding.symbol.value).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        if binding.parameter not in parameters:
            raise ValueError(
                f"{binding.location}: {binding.symbol.name} has no parameter {binding.parameter!r}"
                f"{nearest(binding.parameter, parameters)}."
            )


def check_unused(program: Program, used: Reachable, well_known: Collection[str]) -> list[Binding]:
    """Nothing in the program may be without effect.

    Args:
      well_known: macros of the shipped run files. In a *file* they may go unused (a file may
        serve several commands) and are returned. On the command line they may not.

    Returns:
      The well-known macros that this command does not use.

    Raises:
      ValueError: for a macro or binding that nothing uses, naming the nearest that exists.
    """
    wanted = {
        leaf.name for b in program.bindings for leaf in leaves(b.value) if type(leaf) is Macro
    }
    idle = []
    for name in [name for name in used.definitions if name not in used.macros]:
        binding = used.definitions[name]
        in_file = binding.location.line is not None
        if in_file and name in well_known:
            idle.append(binding)
            used.follow(binding.value, (name,), binding)  # nor is what only it refers to
        elif not (in_file and name in wanted):
            candidates = wanted | set(well_known) - {name}
            raise ValueError(
                f"{binding.location}: the macro {name} is not used by anything"
                f"{nearest(name, candidates)}."
            )
    for key, binding in used.bindings.items():
        if key not in used.used:
            assert binding.symbol is not None
            reached = [s.name for s in program.symbols.values() if id(s.value) in used.symbols]
            hint = nearest(binding.symbol.name, reached)
            raise ValueError(
                f"{binding.location}: the binding {binding.name} has no effect: nothing that "
                f"this command calls uses {binding.symbol.name}{hint}."
            )
    return idle


def check_types(used: Reachable, symbols: Mapping[int, Symbol]) -> None:
    """Literals (also through macros) must have the declared type of plain parameters (int, str, …).

    Raises:
      ValueError: for the first that does not.
    """
    for key in used.used:
        _, symbol_id, parameter = key
        binding, value = used.bindings[key], used.bindings[key].value
        origin = binding
        while isinstance(value, Macro) and value.name in used.definitions:
            origin = used.definitions[value.name]
            value = origin.value
        if any(isinstance(leaf, (Macro, Reference)) for leaf in leaves(value)):
            continue
        hint = _hints(symbols[symbol_id].value).get(parameter)
        if hint is not None and not _fits(value, hint):
            shown = getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)
            raise ValueError(
                f"{origin.location}: {origin.name} = {value!r}, but {binding.name} must be {shown}."
            )


def signature(value: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(value)
    except ValueError:  # some C functions have none: gin will check at the call
        return inspect.Signature([inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)])


def required_parameters(value: Callable[..., Any]) -> list[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return []
    return [
        name
        for name, parameter in signature(value).parameters.items()
        if parameter.kind in named and parameter.default is parameter.empty
    ]


def defaults(value: Callable[..., Any]) -> dict[str, Any]:
    """Default of every parameter that has one; a dataclass's default factories are called."""
    fields = getattr(value, "__dataclass_fields__", {})
    factories = {
        name: field.default_factory
        for name, field in fields.items()
        if field.default_factory is not dataclasses.MISSING
    }
    return {
        name: factories[name]() if name in factories else parameter.default
        for name, parameter in signature(value).parameters.items()
        if parameter.default is not parameter.empty
    }


def _hints(value: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(value.__init__ if inspect.isclass(value) else value)
    except (NameError, TypeError, AttributeError):  # names only a type checker sees
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a literal fits a hint; anything but plain types is accepted."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint in (int, bool, str, type(None)):
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float)
    container = origin or hint
    if isinstance(container, type) and issubclass(container, Mapping):
        return isinstance(value, Mapping)
    if isinstance(container, type) and issubclass(container, Sequence):
        return isinstance(value, (list, tuple))
    return True
