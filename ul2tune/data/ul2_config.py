"""What a denoising mixture is, as plain data: denoisers, their rates, and what announces them.

The only randomness configured here is *which* distributions to draw from; keys come from the
caller. Configurations survive JSON (manifests carry them from `prepare` to `feed`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from ul2tune.data.pivots import PIVOTS, Pivot
from ul2tune.data.vocab_info import VocabInfo
from ul2tune.nearest import did_you_mean

Kind = Literal["span", "prefix", "causal"]
Placement = Literal["random", "tail", "roll"]
KINDS = ("span", "prefix", "causal")
PLACEMENTS = ("random", "tail", "roll")


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """One way to split a segment into inputs and targets.

    Attributes:
      name: how errors, logs and per-source losses call it.
      kind: "span" hides several spans; "prefix" hides everything after a cut; "causal" hides all.
      rate: fraction of tokens to predict. "prefix": its mean over segments (UL2's S is .25, T5's
        prefix_lm .5); with a "truncated_normal" pivot the mean before truncation, from which a wide
        one departs (`data/pivots.py`). "causal": always 1.
      mean_span: mean tokens of a hidden span ("span" only).
      mode: the mode announced at the start of the inputs ("R", "S", "X"; any other name if
        `UL2Config.mode_tokens` has it), or None.
      placement: where the spans lie ("span" only). "tail": T5's, a segment always starts kept and
        ends with noise. "roll": T5's `random_roll`, the former rotated by a uniform offset; a span
        across the end counts twice. "random": uniform over all masks with the same number of tokens
        and spans; lengths as for "tail".
      max_spans: at most this many spans (they get longer instead), for vocabularies with few
        sentinels ("span" only). A roll may still split one of them in two.
      pivot: how the cut is placed ("prefix" only); see `data/pivots.py`.
      pivot_std: standard deviation of a "truncated_normal" pivot, as a fraction of the segment.
      sentinel: whether a sentinel marks the cut on both sides ("prefix" only). Off as in the UL2
        paper's appendix; the released google/ul2 checkpoint was prompted with one.
    """

    name: str
    kind: Kind
    rate: float = 1.0
    mean_span: float | None = None
    mode: str | None = None
    placement: Placement = "random"
    max_spans: int | None = None
    pivot: Pivot = "uniform"
    pivot_std: float | None = None
    sentinel: bool = False

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"A denoiser needs a name, got {self.name!r}.")
        for field in ("rate", "mean_span", "max_spans", "pivot_std"):
            value = getattr(self, field)
            if value is not None and not _is_number(value):
                raise self._error(f"{field}={value!r}", "give a number")
        if self.mode is not None and not isinstance(self.mode, str):
            raise self._error(f"mode={self.mode!r}", "give a text such as 'R', or None")
        if not isinstance(self.sentinel, bool):
            raise self._error(f"sentinel={self.sentinel!r}", "give True or False")
        for field, value, known in (
            ("kind", self.kind, KINDS),
            ("placement", self.placement, PLACEMENTS),
            ("pivot", self.pivot, PIVOTS),
        ):
            if value not in known:
                raise self._error(f"{field}={value!r}", f"use one of {', '.join(known)}")
        self._check_rate()
        self._check_spans()
        self._check_pivot()

    def _check_rate(self):
        if self.kind == "causal":
            if self.rate != 1.0:
                raise self._error(f"rate={self.rate}", "a causal denoiser predicts all: leave it 1")
        elif not 0.0 < self.rate < 1.0:
            raise self._error(f"rate={self.rate}", "give a fraction between 0 and 1, both excluded")

    def _check_spans(self):
        if self.kind == "span":
            if self.mean_span is None or not 1.0 <= self.mean_span < math.inf:
                raise self._error(f"mean_span={self.mean_span}", "give a mean of at least 1 token")
            if self.max_spans is not None and not (
                _is_integer(self.max_spans) and self.max_spans >= 1
            ):
                raise self._error(
                    f"max_spans={self.max_spans}", "allow an integer of at least 1, or None"
                )
            return
        for field, default in (("mean_span", None), ("max_spans", None), ("placement", "random")):
            if getattr(self, field) != default:
                raise self._unused(field, "span")

    def _check_pivot(self):
        if self.kind != "prefix":
            for field, default in (("pivot", "uniform"), ("pivot_std", None), ("sentinel", False)):
                if getattr(self, field) != default:
                    raise self._unused(field, "prefix")
        elif self.pivot == "truncated_normal":
            if self.pivot_std is None or not 0.0 < self.pivot_std <= 1.0:
                raise self._error(
                    f"pivot_std={self.pivot_std}",
                    "a truncated_normal pivot needs a fraction in (0, 1] of the segment, say 0.1",
                )
        elif self.pivot_std is not None:
            raise self._error(
                f"pivot_std={self.pivot_std}",
                f"pivot={self.pivot!r} does not use it: remove it, or set pivot='truncated_normal'",
            )

    def _unused(self, field: str, kind: str) -> ValueError:
        return self._error(
            f"{field}={getattr(self, field)!r}",
            f"only kind={kind!r} uses it and this is kind={self.kind!r}: remove it",
        )

    def _error(self, what: str, fix: str) -> ValueError:
        return ValueError(f"Denoiser {self.name!r} has {what}: {fix}.")


@dataclass(frozen=True, kw_only=True)
class UL2Config:
    """A mixture of denoisers.

    Attributes:
      denoisers: at least one, with distinct names. Their order numbers them.
      rates: how often each is drawn, in proportion; None draws all equally often.
      mode_tokens: what announces each mode: a tuple of ids, or a text that :meth:`tokenize_modes`
        turns into ids (a task does by itself), for every mode in use. None: the ids that the
        vocabulary reserves (`VocabInfo.mode_ids`).
      inputs_eos, targets_eos: whether the end-of-sequence id follows each side.
    """

    denoisers: tuple[Denoiser, ...]
    rates: tuple[float, ...] | None = None
    mode_tokens: Mapping[str, tuple[int, ...] | str] | None = None
    inputs_eos: bool = True
    targets_eos: bool = True

    def __post_init__(self):
        # gin and JSON give lists; equality wants tuples.
        object.__setattr__(self, "denoisers", _tuple("denoisers", self.denoisers))
        for denoiser in self.denoisers:
            if not isinstance(denoiser, Denoiser):
                raise ValueError(
                    f"UL2Config has {denoiser!r} among its denoisers: give Denoiser objects."
                )
        for name in ("inputs_eos", "targets_eos"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"UL2Config has {name}={value!r}: give True or False.")
        names = [denoiser.name for denoiser in self.denoisers]
        if not names:
            raise ValueError("UL2Config has no denoisers: give at least one.")
        if len(set(names)) != len(names):
            raise ValueError(f"UL2Config has denoisers {names}: their names must be distinct.")
        if self.rates is not None:
            self._check_rates(names)
        if self.mode_tokens is not None:
            self._check_mode_tokens()

    def _check_rates(self, names: list[str]):
        rates = _tuple("rates", self.rates)
        object.__setattr__(self, "rates", rates)
        if len(rates) != len(names):
            raise ValueError(
                f"UL2Config has {len(rates)} rates {rates} for {len(names)} "
                f"denoisers {names}: give one each, or None for equal rates."
            )
        if not all(_is_number(rate) for rate in rates):
            raise ValueError(f"UL2Config has rates {rates}: give numbers.")
        if not all(0.0 <= rate < math.inf for rate in rates) or not sum(rates) > 0.0:
            raise ValueError(
                f"UL2Config has rates {rates}: none may be negative, one must be positive."
            )

    def _check_mode_tokens(self):
        if not isinstance(self.mode_tokens, Mapping):
            raise ValueError(
                f"UL2Config has mode_tokens {self.mode_tokens!r}: give ids or a text by mode."
            )
        if unused := set(self.mode_tokens) - self.modes:
            raise ValueError(
                f"UL2Config has mode_tokens for {sorted(unused)}, which no denoiser announces "
                f"(modes in use: {sorted(self.modes)}): remove them or set the denoisers' mode."
            )
        tokens = {
            mode: value if isinstance(value, str) else _tuple(f"mode_tokens[{mode!r}]", value)
            for mode, value in self.mode_tokens.items()
        }
        for mode, value in tokens.items():
            if not isinstance(value, str) and not all(_is_integer(i) for i in value):
                raise ValueError(
                    f"UL2Config has mode_tokens[{mode!r}] = {value}: give integer ids, or a text."
                )
        object.__setattr__(self, "mode_tokens", tokens)

    @property
    def modes(self) -> set[str]:
        """The modes that some denoiser announces."""
        return {denoiser.mode for denoiser in self.denoisers if denoiser.mode is not None}

    @property
    def drawn(self) -> tuple[int, ...]:
        """The numbers of the denoisers that are ever drawn: those of a rate above 0."""
        return tuple(number for number, rate in enumerate(self.probabilities) if rate > 0)

    @property
    def is_causal(self) -> bool:
        """Whether all denoisers predict everything, so that inputs say nothing."""
        return all(denoiser.kind == "causal" for denoiser in self.denoisers)

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Normalised rates, one per denoiser."""
        rates = self.rates or (1.0,) * len(self.denoisers)
        return tuple(rate / sum(rates) for rate in rates)

    def index(self, name: str) -> int:
        """The number of the denoiser called `name`.

        Raises:
          ValueError: if there is none; names the nearest.
        """
        names = [denoiser.name for denoiser in self.denoisers]
        if name not in names:
            raise ValueError(
                f"No denoiser is called {name!r}{did_you_mean(name, names)}; there are "
                f"{', '.join(names)}."
            )
        return names.index(name)

    def mode_ids(self, denoiser: Denoiser, vocab: VocabInfo) -> tuple[int, ...]:
        """The ids that announce one of the denoisers; empty if nothing does.

        Raises:
          ValueError: if its mode has no ids, is still a text, or has reserved ids.
        """
        mode = denoiser.mode
        if mode is None:
            return ()
        known = vocab.mode_ids if self.mode_tokens is None else self.mode_tokens
        if mode not in known:
            if self.mode_tokens is None:
                problem = (
                    f"the vocabulary reserves ids only for {sorted(known)}: give UL2Config "
                    "mode_tokens with ids or a text for every mode, such as "
                    f"{{{mode!r}: '[{mode}]'}}"
                )
            else:
                problem = f"mode_tokens are only for {sorted(known)}: add ids or a text for it"
            raise ValueError(
                f"Denoiser {denoiser.name!r} announces mode {mode!r}, but {problem}, or use "
                "config.without_modes()."
            )
        ids = known[mode]
        if isinstance(ids, str):
            raise ValueError(
                f"Mode {mode!r} is still the text {ids!r}: "
                "call config.tokenize_modes(vocabulary.encode) first."
            )
        sentinels = vocab.sentinels.tolist()
        reserved = {vocab.eos_id, vocab.pad_id, *sentinels}
        if not ids or any(i in reserved or i < 0 for i in ids):
            raise ValueError(
                f"Mode {mode!r} is announced by ids {tuple(ids)}: give at least one, none "
                f"negative, none of EOS ({vocab.eos_id}) or padding ({vocab.pad_id}), and none of "
                f"the sentinels {min(sentinels, default='-')} to {max(sentinels, default='-')}."
            )
        return tuple(ids)

    def tokenize_modes(self, encode: Callable[[str], Sequence[int]]) -> UL2Config:
        """Replaces mode texts (``{"R": "[NLU]"}``) by ids, e.g. with ``vocabulary.encode``."""
        if self.mode_tokens is None:
            return self
        tokens = {
            mode: tuple(int(i) for i in encode(value)) if isinstance(value, str) else value
            for mode, value in self.mode_tokens.items()
        }
        return dataclasses.replace(self, mode_tokens=tokens)

    def without_modes(self) -> UL2Config:
        """The same mixture with nothing announced, as in T5Gemma 2."""
        denoisers = tuple(dataclasses.replace(d, mode=None) for d in self.denoisers)
        return dataclasses.replace(self, denoisers=denoisers, mode_tokens=None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_json` gives back an equal configuration."""
        data = dataclasses.asdict(self)
        for name in ("denoisers", "rates"):
            data[name] = None if data[name] is None else list(data[name])
        if self.mode_tokens is not None:
            data["mode_tokens"] = {
                mode: value if isinstance(value, str) else list(value)
                for mode, value in self.mode_tokens.items()
            }
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> UL2Config:
        """The inverse of :meth:`to_json`.

        Raises:
          ValueError: for keys that do not exist (the nearest is named) or values that do not fit.
        """
        values = _checked(data, UL2Config, "UL2Config")
        values["denoisers"] = tuple(
            Denoiser(**_checked(d, Denoiser, f"denoisers[{i}]"))
            for i, d in enumerate(_tuple("denoisers", values["denoisers"]))
        )
        return UL2Config(**values)


def _tuple(name: str, value: Any) -> tuple:
    """The items of a list."""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"UL2Config has {name} = {value!r}: it must be a list.")
    return tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _checked(data: Mapping[str, Any], cls: type, where: str) -> dict[str, Any]:
    """The mapping as keyword arguments of dataclass `cls`."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be a JSON object, got {data!r}.")
    fields = dataclasses.fields(cls)
    names = [field.name for field in fields]
    for key in data:
        if key not in names:
            raise ValueError(
                f"{where} has no field {key!r}{did_you_mean(key, names)}; there are "
                f"{', '.join(names)}."
            )
    for field in fields:
        if field.name not in data and field.default is dataclasses.MISSING:
            raise ValueError(f"{where} lacks the field {field.name!r}.")
    return dict(data)
