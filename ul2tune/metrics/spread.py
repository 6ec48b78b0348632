"""How much a score depends on the prompt: mean, median and quartiles over a task's prompts.

T0 reports the mean over the prompts of a data set, with median and quartiles beside it, and never
the best prompt (Sanh et al. 2022, section 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of one score over prompts, in the score's unit.

    Attributes:
      num_prompts: how many.
      mean: what T0 reports as the data set's score.
      median, first_quartile, third_quartile: interpolated linearly between neighbours, as
        `numpy.percentile` does.
      minimum, maximum: the worst and the best prompt.
    """

    num_prompts: int
    mean: float
    median: float
    first_quartile: float
    third_quartile: float
    minimum: float
    maximum: float


def spread(values: Sequence[float]) -> Spread:
    """Summarises one score of each prompt.

    Raises:
      ValueError: if there is none.
    """
    if not values:
        raise ValueError("The spread over prompts needs the score of at least one prompt.")
    ranked = sorted(values)
    return Spread(
        num_prompts=len(ranked),
        mean=sum(ranked) / len(ranked),
        median=quantile(ranked, 0.5),
        first_quartile=quantile(ranked, 0.25),
        third_quartile=quantile(ranked, 0.75),
        minimum=ranked[0],
        maximum=ranked[-1],
    )


def quantile(ranked: Sequence[float], share: float) -> float:
    """The value below which a share of the ascending values lies, interpolated linearly."""
    position = share * (len(ranked) - 1)
    below = int(position)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (position - below) * (ranked[above] - ranked[below])
