"""How much work one rendering of an untrusted template may do, counted deterministically.

Every operation of a template whose cost depends on its operands pays for them *before* it runs:
about one unit per character touched or made, `ELEMENT` per element of a list, `NODE` per part of a
loop's body and turn. So time and memory are bounded together, and what is refused does not depend
on how busy the machine is: all of the budget is spent within a fraction of a second, and holds a
few hundred bytes per hundred units.

Containers pay for everything in them, shared parts as often as they occur: text, comparison and
hash of `[x, x]` visit `x` twice, so forty such doublings would never end.
"""

from __future__ import annotations

import operator
import random
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined
from jinja2.utils import Namespace

BUDGET = 24_000_000
# No single value may be larger: an operation is never interrupted.
LARGEST = 4_000_000
NODE, ELEMENT = 24, 24
_LARGEST_BITS = 4096
_SMALL = 1 << 64
_NUMBERS = frozenset({int, float, bool})
_RUN_OF_DIGITS = re.compile("[0-9]+")


class Refused(SecurityError):
    """The template does something that no prompt needs. Not a ValueError, which filters catch."""


class _State(threading.local):
    left: int = 0
    seed: int = 0
    random: random.Random | None = None


_state = _State()


def begin(seed: int) -> None:
    """Starts the account of one rendering, in this thread; `seed` is for :func:`generator`."""
    _state.left, _state.seed, _state.random = BUDGET, seed, None


def generator() -> random.Random:
    """The rendering's source of randomness."""
    if _state.random is None:
        _state.random = random.Random(_state.seed)
    return _state.random


def charge(units: int) -> None:
    """Pays; raises `Refused` if one operation is too large or nothing is left."""
    if units > LARGEST:
        raise Refused(f"an operation or value is larger than {LARGEST:,} characters")
    _state.left -= units
    if _state.left < 0:
        raise Refused(f"it does more work than {BUDGET:,} units")


def weigh(value: Any) -> int:
    """Units of a value: its characters, elements and bits, in all depths."""
    kind = type(value)
    if kind is str:
        return len(value)
    if kind is int:
        return 1 if -_SMALL < value < _SMALL else value.bit_length()
    if kind is bool or value is None or kind is float:
        return 1
    return _weigh_tree(value)


def _weigh_tree(value: Any) -> int:
    total, stack = 0, [value]
    while stack:
        item = stack.pop()
        kind = type(item)
        if kind is str:
            total += len(item)
        elif kind is dict:
            total += 2 * ELEMENT * (len(item) + 1)
            _check(total)
            stack.extend(item)
            stack.extend(item.values())
        elif kind is Namespace:
            total += ELEMENT
            stack.append(item._Namespace__attrs)
        elif kind is int:
            total += 1 if -_SMALL < item < _SMALL else item.bit_length()
        elif kind is range:
            total += ELEMENT * len(item)
        elif hasattr(item, "__len__") and not isinstance(item, Undefined):
            total += ELEMENT * (len(item) + 1)
            _check(total)
            stack.extend(item)
        else:
            total += 1
        _check(total)
    return total


def _check(total: int) -> None:
    if total > LARGEST:
        raise Refused(f"a value is larger than {LARGEST:,} characters in all its parts")


def weighed(value: Any) -> Any:
    """The value, paid for."""
    charge(weigh(value))
    return value


def listed(value: Any) -> Any:
    """A list in place of an iterator, whose elements could not be weighed; else the value."""
    return list(value) if isinstance(value, Iterator) else value


def to_text(value: Any) -> str:
    """What Jinja prints for a value.

    DIVERGES: functions and iterators, whose text is an address in memory, are refused.
    """
    if type(value) is str:
        return value
    if isinstance(value, Iterator) or (callable(value) and not isinstance(value, Undefined)):
        raise Refused(f"it prints a {type(value).__name__}; add `|list` or the call's brackets")
    charge(weigh(value))
    return str(value)


def each(value: Any, cost: int) -> Any:
    """What a loop with a body of `cost` units runs over: a copy, so that no loop feeds itself.

    DIVERGES: Jinja runs over the original, so that a loop appending to its own list never ends.
    """
    if type(value) is Undefined:
        return ()
    if type(value) not in (str, range, tuple):
        value = list(value)
    charge_turns(len(value), cost)
    return value


def charge_turns(turns: int, cost: int) -> None:
    """Pays for a loop's turns."""
    _state.left -= turns * cost
    if _state.left < 0:
        raise Refused(f"its loops do more work than {BUDGET:,} units")


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "**": operator.pow,
    "%": operator.mod,
}
OPERATORS = frozenset(_OPERATORS)


def binary(name: str, left: Any, right: Any) -> Any:
    """Applies an operator of :data:`OPERATORS` within bounds."""
    function = _OPERATORS[name]
    if type(left) in _NUMBERS and type(right) in _NUMBERS:
        _check_numbers(name, left, right)
        return function(left, right)
    if name == "*":
        _charge_repetition(left, right)
    elif name == "%" and isinstance(left, str):
        charge_format(left, right)
    else:
        charge(weigh(left) + weigh(right))
    return function(left, right)


def _check_numbers(name: str, left: Any, right: Any) -> None:
    if isinstance(left, float) or isinstance(right, float):
        return
    bits = left.bit_length() + right.bit_length()
    if name == "**":
        bits = left.bit_length() * abs(right)
    if bits > _LARGEST_BITS:
        raise Refused(f"a number has more than {_LARGEST_BITS} bits")


def _charge_repetition(left: Any, right: Any) -> None:
    for sequence, count in ((left, right), (right, left)):
        if isinstance(count, int) and hasattr(sequence, "__len__"):
            unit = 1 if isinstance(sequence, str) else ELEMENT
            charge(unit * len(sequence) * max(count, 0))


def charge_format(template: str, values: Any) -> None:
    """Pays for `template % values`: any number in the template may be a width."""
    units = len(template) + weigh(values) * template.count("%")
    units += sum(int(run[:12]) for run in _RUN_OF_DIGITS.findall(template))
    if "*" in template:
        parts = values if isinstance(values, tuple) else (values,)
        units += template.count("*") * sum(abs(part) for part in parts if isinstance(part, int))
    charge(units)


def charge_replacement(text: str, old: str, new: str, count: int = -1) -> None:
    """Pays for `text.replace(old, new, count)`."""
    found = text.count(old)
    if count >= 0:
        found = min(found, count)
    charge(2 * len(text) + found * len(new))


def charge_join(separator: str, parts: list[Any]) -> None:
    """Pays for joining."""
    charge(weigh(parts) + len(parts) * len(separator))
