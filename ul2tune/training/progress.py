"""What a person sees while a run trains: a table at the start, then one live line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ul2tune.first_names import first_names

_MAX_VALUES = 7


def line(
    step: int,
    ends: tuple[int, int],
    latest: Mapping[str, float],
    rates: Mapping[str, float],
    stretch: float = 1.0,
) -> str:
    """``step 120/500 (24 %)  loss 3.412  12.3k tokens/s (11.0k real)  MFU 41.2 %  ETA 0:03:12``

    The percentage is that of the run's own steps, without those of its initial checkpoint: `ends`
    are the step its counter began at and the last one. Rates are those of steps; the time left
    reckons with saves, evaluations and hooks too, as many seconds of them per step as so far.
    """
    first_step, last_step = ends
    percent = 100 * (step - first_step) // max(last_step - first_step, 1)
    parts = [f"step {step}/{last_step} ({percent} %)"]
    if "loss" in latest:
        parts.append(f"loss {latest['loss']:.3f}")
    if "loss" in latest and "tokens_per_sec" in rates:  # before, nothing has run to its end
        real = compact(rates["nonpadding_tokens_per_sec"])
        parts.append(f"{compact(rates['tokens_per_sec'])} tokens/s ({real} real)")
        if "mfu" in rates:
            parts.append(f"MFU {100 * rates['mfu']:.1f} %")
        left = int(stretch * (last_step - step) / rates["steps_per_sec"])
        parts.append(f"ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}")
    return "  ".join(parts)


def evaluated(step: int, values: Mapping[str, float]) -> str:
    """``step 500: validation/loss 3.412, eval/chat/exact_match 12.5``

    Of the validation only the loss, of the hooks' values as many as one reads in a line: all are
    in the files.
    """
    shown = [name for name in values if not name.startswith("validation/")]
    shown = [*(name for name in ("validation/loss",) if name in values), *shown]
    return f"step {step}: {first_names((f'{n} {values[n]:.4g}' for n in shown), _MAX_VALUES)}"


def compact(value: float) -> str:
    """1234567 -> "1.23M"."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name.ljust(width)}  {value}" for name, value in rows)
