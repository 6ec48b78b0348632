"""How a group of a mixture divides its share among its children (`ul2tune.data.rates`).

Examples-proportional mixing with a limit K and a temperature T is that of Raffel et al. 2020
(arXiv:1910.10683), section 3.5.2, computed as `seqio.mixing_rate_num_examples` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Child:
    """What a policy knows of a child; `size` is None where a leaf's examples are not known."""

    name: str
    category: str
    size: float | None


class Policy(Protocol):
    """Divides a group's share."""

    def divide(self, children: Sequence[Child]) -> list[float]:
        """Non-negative weights, which need not add up to 1.

        Raises:
          ValueError: if the policy does not fit the children.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Proportional:
    """Examples-proportional: ``min(size * scale, cap) ** (1 / temperature)``.

    Attributes:
      cap: artificial limit K of a child's size; None = none.
      caps: limits that replace `cap` for some children, by their name or else their category.
      temperature: T; 1 is proportional, ever larger ones approach equal rates.
      scale: multiplies sizes before they are limited.
    """

    cap: float | None = None
    caps: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        limits = [*self.caps.values(), *(() if self.cap is None else (self.cap,))]
        for name, value in (
            ("temperature", self.temperature),
            ("scale", self.scale),
            *(("cap", limit) for limit in limits),
        ):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"Proportional.{name} must be positive and finite, got {value}.")

    def divide(self, children: Sequence[Child]) -> list[float]:
        return [self._weight(child) for child in children]

    def _weight(self, child: Child) -> float:
        if child.size is None:
            raise ValueError(
                f"the number of examples of {child.name!r} is not known, which examples-"
                "proportional mixing needs: prepare it, or state `examples`"
            )
        cap = self.caps.get(child.name, self.caps.get(child.category, self.cap))
        size = child.size * self.scale
        return (size if cap is None else min(size, cap)) ** (1.0 / self.temperature)


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Stated proportions.

    Attributes:
      weights: a weight for every child.
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise ValueError(f"the weight of {name!r} must be 0 or more, got {weight}")

    def divide(self, children: Sequence[Child]) -> list[float]:
        names = {child.name for child in children}
        if wrong := sorted(names ^ set(self.weights)):
            kind = "has no weight" if wrong[0] in names else "has a weight, but is not there"
            raise ValueError(f"{wrong[0]!r} {kind}; the children are {sorted(names)}")
        for child in children:
            if child.size == 0 and self.weights[child.name]:
                raise ValueError(
                    f"{child.name!r} is to get {self.weights[child.name]} and has no "
                    "examples: prepare some, or give it weight 0"
                )
        return [float(self.weights[child.name]) for child in children]


@dataclass(frozen=True, kw_only=True)
class Equal:
    """The same for every child that has examples."""

    def divide(self, children: Sequence[Child]) -> list[float]:
        return [0.0 if child.size == 0 else 1.0 for child in children]


def describe(policy: Policy) -> str:
    """The policy in a few words.

    >>> describe(Proportional(cap=3000))
    'proportional, cap=3000'
    """
    name = type(policy).__name__.lower()
    words = [name]
    for f in fields(policy):  # type: ignore[arg-type]
        value = getattr(policy, f.name)
        if isinstance(value, int | float) and value != f.default:
            words.append(f"{f.name}={value:g}")
    if own_caps := len(getattr(policy, "caps", {})):
        words.append(f"{own_caps} caps of their own")
    return ", ".join(words)


_KINDS = {"proportional": Proportional, "fixed": Fixed, "equal": Equal}


def policy_from_json(data: Any, where: str) -> Policy:
    """A policy from ``{"kind": "proportional", "cap": 3000}``, or its kind alone.

    Raises:
      ValueError: that starts with `where`.
    """
    values = dict(data) if isinstance(data, Mapping) else {"kind": data}
    kind = values.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"{where}: policy {kind!r} is not one of {', '.join(_KINDS)}.")
    try:
        return _KINDS[kind](**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: policy {kind!r}: {error}") from error
