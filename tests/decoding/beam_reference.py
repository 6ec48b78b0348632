"""Beam search once more: of one prompt, over Python lists, without a cache or an early end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Tokens = tuple[int, ...]
# From hypotheses of one length to the log-probabilities of their next tokens, [hypotheses, V].
NextLogps = Callable[[Sequence[Tokens]], np.ndarray]


def score(logp: float, length: int, alpha: float) -> float:
    return logp / ((5 + length) / 6) ** alpha


def search(
    next_logps: NextLogps, ends: set[int], *, num_beams: int, alpha: float, length: int
) -> Tokens:
    """The answer to one prompt; -inf is impossible."""
    beams: list[tuple[float, Tokens]] = [(0.0, ())]
    ended: list[tuple[float, Tokens]] = []
    for size in range(1, length + 1):
        if not beams:
            break
        logps = next_logps([tokens for _, tokens in beams])
        candidates = [
            (total + float(logp), (*tokens, token))
            for (total, tokens), row in zip(beams, logps, strict=True)
            for token, logp in enumerate(row)
            if logp > -np.inf
        ]
        candidates.sort(key=lambda one: -one[0])
        ended += [
            (score(logp, size, alpha), tokens)
            for logp, tokens in candidates[: 2 * num_beams]
            if tokens[-1] in ends
        ]
        ended = sorted(ended, key=lambda one: -one[0])[:num_beams]
        beams = [one for one in candidates if one[1][-1] not in ends][:num_beams]
    return (ended or beams)[0][1]


def exhaustive(next_logps: NextLogps, ends: set[int], *, alpha: float, length: int) -> Tokens:
    """The best of all continuations that end."""

    def scored() -> Iterator[tuple[float, Tokens]]:
        vocabulary = range(next_logps([()]).shape[1])
        for size in range(1, length + 1):
            for tokens in itertools.product(*[set(vocabulary) - ends] * (size - 1), ends):
                steps = range(size)
                logps = [float(next_logps([tokens[:step]])[0, tokens[step]]) for step in steps]
                yield score(sum(logps), size, alpha), tokens

    return max(scored(), key=lambda one: one[0])[1]
