"""Filters, tests, methods and functions that an untrusted template may use, each within bounds.

Whatever is not named here does not exist for a template. The selection covers all of PromptSource
(2,085 templates) and what resembles it; filters that write HTML are left out.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_TESTS
from jinja2.exceptions import TemplateRuntimeError
from jinja2.filters import make_attrgetter
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import Namespace, pass_environment

from ul2tune.instructions import jinja_budget as budget
from ul2tune.instructions.jinja_budget import Refused, charge, listed, weigh

LONGEST_RANGE = 100_000
_LARGEST_PRECISION = 300


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Attributes by type. For other types, only attributes of namespaces.
_TEXT_METHODS = _names(
    "capitalize casefold center count endswith find index isalnum isalpha isascii isdecimal isdigit"
    " islower isnumeric isspace istitle isupper join ljust lower lstrip partition removeprefix"
    " removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith"
    " strip swapcase title upper zfill"
)
_LIST_METHODS = _names("append copy count extend index insert pop remove reverse")
_DICT_METHODS = _names("copy get items keys pop setdefault update values")
_LOOP = _names(
    "index index0 revindex revindex0 first last length previtem nextitem cycle changed depth depth0"
)
_ATTRIBUTES: Mapping[type, frozenset[str]] = {
    str: _TEXT_METHODS,
    list: _LIST_METHODS,
    dict: _DICT_METHODS,
    tuple: frozenset({"count", "index"}),
    LoopContext: _LOOP,
}
# Methods that change what they belong to: rows are copied for templates that name one.
MUTATORS = _names("append extend insert pop remove reverse setdefault update")
_CONSTANT_TIME = _names("append get pop keys values setdefault")
_PADDING = frozenset({"center", "ljust", "rjust", "zfill"})


def is_allowed_attribute(value: Any, name: str) -> bool:
    """Whether a template may read this attribute."""
    names = _ATTRIBUTES.get(type(value))
    if names is not None:
        return name in names
    return type(value) is Namespace and not name.startswith("_")


def call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls what a template calls: a method of a plain value, or one of :data:`FUNCTIONS`."""
    kind = type(function)
    if kind is BuiltinMethodType:
        owner, name = function.__self__, function.__name__
        if name in _ATTRIBUTES.get(type(owner), ()):
            return _call_method(function, owner, name, args, kwargs)
    elif kind is MethodType and type(function.__self__) is LoopContext:
        charge(weigh(args) + budget.ELEMENT)
        return function(*args, **kwargs)
    elif isinstance(function, Undefined) or function in _FUNCTIONS:
        return function(*args, **kwargs)
    raise Refused(f"it calls {kind.__name__} {getattr(function, '__name__', '')!r}")


def _call_method(
    method: Any, owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if type(owner) is not str and name in _CONSTANT_TIME:
        # Taking from the front of a list moves the rest.
        charge(budget.ELEMENT + (len(owner) // 16 if name == "pop" else 0))
        return method(*args, **kwargs)
    if name in ("join", "extend", "update"):
        args = tuple(listed(arg) for arg in args)
    if name == "join" and args:
        budget.charge_join(owner, list(args[0]))
    elif name == "replace" and len(args) > 1:
        budget.charge_replacement(owner, *args[:3])
    elif name in _PADDING and args and isinstance(args[0], int):
        charge(max(args[0], 0))
    elif name not in ("startswith", "endswith", "update"):
        charge(weigh(owner))
    charge(weigh(args) + weigh(kwargs))
    result = method(*args, **kwargs)
    if type(result) is list:
        charge(weigh(result))
    return result


def _range(*args: int) -> range:
    result = range(*args)
    if len(range(*args[:3])[: LONGEST_RANGE + 1]) > LONGEST_RANGE:
        raise Refused(f"a range is longer than {LONGEST_RANGE:,}")
    return result


def _zip(*args: Any) -> zip:
    lists = [listed(arg) for arg in args]
    charge(weigh(lists))
    return zip(*lists)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    lists = [listed(arg) for arg in args]
    charge(weigh(lists) + weigh(kwargs))
    return dict(*lists, **kwargs)


def _namespace(*args: Any, **kwargs: Any) -> Namespace:
    return Namespace(_dict(*args, **kwargs))


def _raise_exception(message: Any) -> None:
    """How chat templates reject a conversation."""
    raise TemplateRuntimeError(budget.to_text(message))


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "raise_exception": _raise_exception,
    "range": _range,
    "zip": _zip,
    "dict": _dict,
    "namespace": _namespace,
}
_FUNCTIONS = frozenset(FUNCTIONS.values())


# ---- filters of PromptSource


def choice(choices: Any) -> Any:
    """One of them; PromptSource draws it from Python's global generator."""
    return budget.generator().choice(choices)


def most_frequent(items: Any) -> list[Any] | None:
    """All items that occur most often, in order of first occurrence; None if there are none."""
    if not items:
        return None
    counts = Counter(items)
    largest = max(counts.values())
    return [item for item, count in counts.items() if count == largest]


def highlight(value: str) -> str:
    """PromptSource's mark-up of inserted text, for display."""
    return "<span style='color: #F08080'>" + value + "</span>"


# ---- Jinja's, where a bound needs more than the operands' sizes


@pass_environment
def _random(environment: SandboxedEnvironment, value: Any) -> Any:
    try:
        return budget.generator().choice(value)
    except IndexError:
        return environment.undefined("No random item, sequence was empty.")


def truncate(
    text: Any, length: int = 255, killwords: bool = False, end: str = "...", leeway: int = 5
) -> Any:
    """Jinja's filter: cut at a word's end, if longer than length + leeway."""
    assert length >= len(end), f"expected length >= {len(end)}, got {length}"
    assert leeway >= 0, f"expected leeway >= 0, got {leeway}"
    if len(text) <= length + leeway:
        return text
    charge(length + len(end))
    kept = text[: length - len(end)]
    return (kept if killwords else kept.rsplit(" ", 1)[0]) + end


@pass_environment
def _join(environment: SandboxedEnvironment, value: Any, d: Any = "", attribute: Any = None) -> str:
    parts = list(value)
    if attribute is not None:
        parts = list(map(make_attrgetter(environment, attribute), parts))
    separator = budget.to_text(d)
    budget.charge_join(separator, parts)
    return separator.join([budget.to_text(part) for part in parts])


@pass_environment
def _sum(environment: SandboxedEnvironment, value: Any, attribute: Any = None, start: Any = 0):
    total = start
    get = (lambda item: item) if attribute is None else make_attrgetter(environment, attribute)
    for item in list(value):
        total = budget.binary("+", total, get(item))
    return total


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    texts = [budget.to_text(part) for part in (text, old, new)]
    limit = -1 if count is None else count
    budget.charge_replacement(texts[0], texts[1], texts[2], limit)
    return texts[0].replace(texts[1], texts[2], limit)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    template = budget.to_text(value)
    if args and kwargs:
        raise Refused("`format` takes positional or keyword arguments, not both")
    budget.charge_format(template, kwargs or args)
    return template % (kwargs or args)


def _tojson(value: Any, **options: Any) -> str:
    """As in Transformers' chat templates: nothing is escaped for HTML."""
    if options:
        raise Refused(f"`tojson` takes no {next(iter(options))!r} here")
    charge(8 * weigh(value))
    return json.dumps(value, ensure_ascii=False)


def _center(value: Any, width: int = 80) -> str:
    charge(max(width, 0))
    return budget.to_text(value).center(width)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    step = len(width) if isinstance(width, str) else max(width, 0)
    charge(len(text) + step * (len(text.splitlines()) + 1))
    return DEFAULT_FILTERS["indent"](text, width, first, blank)


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if abs(precision) > _LARGEST_PRECISION:
        raise Refused(f"it rounds to {precision} digits")
    return DEFAULT_FILTERS["round"](value, precision, method)


def _bounded(function: Callable[..., Any], factor: int = 1) -> Callable[..., Any]:
    """Pays `factor` times for all operands, iterators as lists, and once for a list returned."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        rest = [listed(arg) for arg in args[first:]]
        charge(factor * (weigh(rest) + (weigh(kwargs) if kwargs else 0)))
        result = function(*args[:first], *rest, **kwargs)
        if type(result) is list:
            charge(weigh(result))
        return result

    return bounded


# name -> how many times the operands' size it costs
_BY_SIZE = {
    **dict.fromkeys(("abs", "capitalize", "float", "items", "lower", "max", "min", "upper"), 2),
    **dict.fromkeys(("list", "reverse", "trim"), 1),
    **dict.fromkeys(("map", "select", "reject", "selectattr", "rejectattr", "unique", "int"), 4),
    **dict.fromkeys(("sort", "dictsort", "title", "wordcount"), 16),
}
_AS_THEY_ARE = ("count", "d", "default", "first", "last", "length")
FILTERS: Mapping[str, Callable[..., Any]] = {
    **{name: DEFAULT_FILTERS[name] for name in _AS_THEY_ARE},
    **{name: _bounded(DEFAULT_FILTERS[name], factor) for name, factor in _BY_SIZE.items()},
    "center": _center,
    "format": _format,
    "indent": _indent,
    "join": _join,
    "random": _random,
    "replace": _replace,
    "round": _round,
    "string": budget.to_text,
    "sum": _sum,
    "tojson": _tojson,
    "truncate": truncate,
    "choice": choice,
    "highlight": _bounded(highlight),
    "most_frequent": _bounded(most_frequent, 4),
}
TESTS: Mapping[str, Callable[..., Any]] = {
    name: _bounded(function)
    for name, function in DEFAULT_TESTS.items()
    if name not in ("filter", "test")
}
RANDOM_FILTERS = frozenset({"choice", "random"})
