"""What gin lets pass silently and we do not: what is bound must be used, known and well typed."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ul2tune.cli.gin_macros import WITHOUT_COUNTERPART
from ul2tune.cli.gin_source import (
    REQUIRED,
    Binding,
    Location,
    Macro,
    Program,
    Reference,
    Symbol,
    leaves,
)
from ul2tune.nearest import closest, did_you_mean

Scope = tuple[str, ...]
# Stands for a required value of another command, which need not be set now.
UNSET = object()


@dataclass
class Reachable:
    """What the roots reach, following references and macros as gin will.

    Attributes:
      macros: the macros used, in order of first use.
      symbols: the functions and classes called, with the scopes they are called in.
      path: the macros and calls that are being followed.
    """

    bindings: Mapping[tuple[Scope, int, str], Binding]
    definitions: Mapping[str, Binding]
    macros: dict[str, None] = field(default_factory=dict)
    symbols: dict[int, dict[Scope, None]] = field(default_factory=dict)
    used: set[tuple[Scope, int, str]] = field(default_factory=set)
    path: list[str] = field(default_factory=list)

    def visit(
        self, symbol: Symbol, scope: Scope, wanted_by: Location | None, called: bool = True
    ) -> None:
        """Follows `symbol` in `scope`; gin lets inner scopes override outer ones.

        Args:
          called: False for a function that is passed on uncalled, which may lack arguments: its
            caller gives them.
        """
        effective: dict[str, Binding] = {}
        for end in range(len(scope) + 1):
            for (at, key, parameter), binding in self.bindings.items():
                if at == scope[:end] and key == id(symbol.value):
                    effective[parameter] = binding
                    self.used.add((at, key, parameter))
        missing = [name for name in required_parameters(symbol.value) if name not in effective]
        if missing and called:
            raise ValueError(
                f"{wanted_by or symbol.path}: {symbol.name} needs a value for "
                f"{', '.join(missing)}. Bind {symbol.name}.{missing[0]} in a gin file."
            )
        scopes = self.symbols.setdefault(id(symbol.value), {})
        if scope in scopes:
            return
        scopes[scope] = None
        for binding in effective.values():
            self.follow(binding.value, scope, binding)

    def follow(self, value: Any, scope: Scope, wanted_by: Binding) -> None:
        for leaf in leaves(value):
            if isinstance(leaf, Macro):
                with self._within(repr(leaf), wanted_by):
                    self._follow_macro(leaf, wanted_by)
            elif isinstance(leaf, Reference):
                assert leaf.target is not None, leaf
                at = leaf.scopes or scope
                call = f"@{'/'.join((*at, leaf.target.path))}()"
                with self._within(call, wanted_by, later=not leaf.evaluate):
                    self.visit(leaf.target, at, wanted_by.location, leaf.evaluate)

    @contextmanager
    def _within(self, name: str, wanted_by: Binding, later: bool = False) -> Iterator[None]:
        """Raises for a macro or call that needs its own value to be computed. A function that is
        passed on uncalled (`later`) may refer to itself."""
        if name in self.path and not later:
            circle = [*self.path[self.path.index(name) :], name]
            raise ValueError(
                f"{wanted_by.location}: {wanted_by.name} needs its own value "
                f"({' -> '.join(circle)}). Give it another one."
            )
        outer = self.path
        self.path = [name] if later else [*outer, name]
        yield
        self.path = outer

    def _follow_macro(self, macro: Macro, wanted_by: Binding) -> None:
        if macro == REQUIRED:
            raise ValueError(
                f"{wanted_by.name} is required by {wanted_by.location} and nothing sets it"
                f"{self._misspelt(wanted_by.name)}. "
                f"Pass --gin.{wanted_by.name}=… or set it in a gin file."
            )
        if macro.name not in self.definitions:
            raise ValueError(
                f"{wanted_by.location}: %{macro.name} is used by {wanted_by.name} but never defined"
                f"{did_you_mean(macro.name, self.definitions)}."
            )
        if macro.name in self.macros:
            return
        self.macros[macro.name] = None
        definition = self.definitions[macro.name]
        self.follow(definition.value, tuple(macro.name.split("/")), definition)

    def _misspelt(self, name: str) -> str:
        """`" (… sets …)"`: a macro near `name` that nothing uses, and where it is set."""
        bindings = [*self.bindings.values(), *self.definitions.values()]
        wanted = {leaf.name for b in bindings for leaf in leaves(b.value) if type(leaf) is Macro}
        unused = [other for other in self.definitions if other not in wanted]
        close = closest(name, unused)
        return f" (did {self.definitions[close].location} mean it?)" if close else ""


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
        reachable.path = [f"@{root.path}()"]
        reachable.visit(root, (), None)
    return reachable


def check_bindings(program: Program) -> None:
    """Every bound parameter exists.

    Raises:
      ValueError: for one that does not, naming the nearest that does.
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
                f"{did_you_mean(binding.parameter, parameters)}."
            )


def check_unused(
    program: Program, used: Reachable, well_known: Collection[str], *, in_flags: bool = False
) -> list[Binding]:
    """Nothing in the program may be without effect.

    Args:
      well_known: macros of the shipped run files. In a *file* they may go unused (a file may
        serve several commands) and are returned. On the command line they may not, unless:
      in_flags: flags may serve several commands too.

    Returns:
      The well-known macros that this command does not use.

    Raises:
      ValueError: for a macro or binding that nothing uses, naming the nearest that exists, what
        overrides the macro's only reader, or that other commands read it.
    """
    wanted = {
        leaf.name for b in program.bindings for leaf in leaves(b.value) if type(leaf) is Macro
    }
    idle = []
    for name in [name for name in used.definitions if name not in used.macros]:
        binding = used.definitions[name]
        in_file = binding.location.line is not None
        if (in_file or in_flags) and name in well_known:
            idle.append(binding)
            used.follow(binding.value, (name,), binding)  # nor is what only it refers to
        elif not (in_file and name in wanted):
            if (in_force := override(program, used, name)) is not None:
                raise ValueError(overridden(binding, in_force))
            if name in well_known:
                raise ValueError(
                    f"{binding.location}: {name} is for other commands, this one has no use for "
                    f"it. Leave it out (in a file of yours it would be a note)."
                )
            if name in WITHOUT_COUNTERPART:
                raise ValueError(
                    f"{binding.location}: T5X's {name} has no counterpart here: "
                    f"{WITHOUT_COUNTERPART[name]}. Leave it out."
                )
            candidates = wanted | set(well_known)
            raise ValueError(
                f"{binding.location}: the macro {name} is not used by anything"
                f"{did_you_mean(name, candidates)}."
            )
    for key, binding in used.bindings.items():
        if key not in used.used:
            assert binding.symbol is not None
            reached = [s.name for s in program.symbols.values() if id(s.value) in used.symbols]
            hint = did_you_mean(binding.symbol.name, reached)
            raise ValueError(
                f"{binding.location}: the binding {binding.name} has no effect: nothing that "
                f"this command calls uses {binding.symbol.name}{hint}."
            )
    return idle


def override(program: Program, used: Reachable, macro: str) -> Binding | None:
    """The parameter in force in the place of one that read `macro`, if there is one."""
    for binding in program.bindings:
        if binding.symbol is not None and Macro(macro) in leaves(binding.value):
            in_force = used.bindings[binding.scope, id(binding.symbol.value), binding.parameter]
            if Macro(macro) not in leaves(in_force.value):
                return in_force
    return None


def overridden(macro: Binding, in_force: Binding) -> str:
    """The sentence on a macro that is set in vain, and what :func:`override` found."""
    return (
        f"{macro.location}: {macro.name} is set, but {in_force.name}, which would read it, has a "
        f"value of its own ({in_force.location}). Take one of the two out."
    )


def check_types(used: Reachable, symbols: Mapping[int, Symbol]) -> None:
    """Values (also through macros) must have the type that their parameters declare: see `_fits`.

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
        value = _resolved(value, used.definitions)
        hint = _hints(symbols[symbol_id].value).get(parameter)
        if hint is not None and not _fits(value, hint):
            shown = getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)
            shown = re.sub(r"\b(?:\w+\.)+(\w)", r"\1", shown)
            calls = isinstance(value, Reference) and not value.evaluate
            raise ValueError(
                f"{origin.location}: {origin.name} = {value!r}, but {binding.name} must be {shown}"
                f"{_one_of(symbols[symbol_id].value, parameter)}"
                f"{f' (did you mean {value!r}()?)' if calls else ''}."
            )


def _resolved(value: Any, definitions: Mapping[str, Binding]) -> Any:
    """`value` with every macro replaced by its value."""
    if isinstance(value, Macro):
        return _resolved(definitions[value.name].value, definitions)
    if isinstance(value, Mapping):
        items = value.items()
        return {_resolved(k, definitions): _resolved(v, definitions) for k, v in items}
    if isinstance(value, (list, tuple)):
        return type(value)(_resolved(item, definitions) for item in value)
    return value


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


def _one_of(value: Callable[..., Any], parameter: str) -> str:
    """ ", one of …" for a parameter that declares what it may be: `Annotated[str, names]`."""
    hint = _hints(value, include_extras=True)[parameter]
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    choices = [o.__metadata__[0] for o in options if typing.get_origin(o) is typing.Annotated]
    return f", one of {', '.join(map(repr, choices[0]))}" if choices else ""


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _hints(value: Callable[..., Any], *, include_extras: bool = False) -> dict[str, Any]:
    called = value.__init__ if inspect.isclass(value) else value
    try:
        return typing.get_type_hints(called, include_extras=include_extras)
    except (NameError, TypeError, AttributeError):  # names only a type checker sees
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a literal or reference fits a hint; what gin files cannot tell is accepted."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if value is UNSET or hint in (Any, object) or isinstance(hint, typing.TypeVar):
        return True
    if _is_union(hint):
        return any(_fits(value, option) for option in arguments)
    if origin is typing.Literal:
        return value in arguments
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if isinstance(value, Reference):
        return _reference_fits(value, kind)
    if kind in (int, bool, str, types.NoneType):
        return type(value) is kind
    if kind is float:
        return type(value) in (int, float)
    if issubclass(kind, Mapping):
        of_key, of_value = arguments or (Any, Any)
        return isinstance(value, Mapping) and all(
            _fits(key, of_key) and _fits(item, of_value) for key, item in value.items()
        )
    if issubclass(kind, Sequence):
        return isinstance(value, (list, tuple)) and _items_fit(value, kind, arguments)
    # No literal is a function, a configuration or an object of ours.
    return not (kind is Callable or dataclasses.is_dataclass(kind) or _is_protocol(kind))


def _items_fit(value: Sequence[Any], kind: type, arguments: tuple[Any, ...]) -> bool:
    if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
        pairs = list(zip(value, arguments))
        return len(value) == len(arguments) and all(_fits(*pair) for pair in pairs)
    return all(_fits(item, arguments[0]) for item in value) if arguments else True


def _reference_fits(value: Reference, kind: type) -> bool:
    assert value.target is not None, value
    target = value.target.value
    if not value.evaluate:
        if not _is_protocol(kind):
            return kind in (Callable, type)
        members = [name for name in dir(kind) if not name.startswith("_")]
        members += kind.__annotations__
        return not inspect.isclass(target) and all(hasattr(target, name) for name in members)
    if kind is Callable or _is_protocol(kind) or not inspect.isclass(target):
        return True  # what a function returns is known only after the call
    return issubclass(target, kind)


def _is_protocol(kind: type) -> bool:
    return getattr(kind, "_is_protocol", False)
