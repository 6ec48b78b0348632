"""UL2 noise: draws a denoiser per example and applies it, vectorised over ragged segments.

The one implementation behind the SeqIO preprocessor and the training feed. Everything is a pure
function of (configuration, tokens, key): no state, no order, no batch.

    noise = UL2Noise(preset("ul2"), vocabulary.info)
    keys = fold_in(seed, stream, counters)
    denoiser = noise.draw(keys)
    inputs, targets = noise.apply(segments, denoiser, keys)

Axes: ``N`` segments.

Reference: Tay et al. 2022 (arXiv:2205.05131) §3.1 and appendix 9.2.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ul2tune.data import pivots, rng, spans
from ul2tune.data.denoise import Frame, corrupt, restore
from ul2tune.data.ragged import Ragged
from ul2tune.data.ul2_config import Denoiser, UL2Config
from ul2tune.data.ul2_presets import MODE_TEXTS, PRESETS, preset
from ul2tune.data.vocab_info import VocabInfo

__all__ = [
    "MODE_TEXTS",
    "PRESETS",
    "Denoiser",
    "UL2Config",
    "UL2Noise",
    "VocabInfo",
    "preset",
]

# What an example's key is folded with before each use, so that no two draws share their bits.
_DRAW, _SPANS, _SHIFT, _PIVOT = range(4)
_UNLIMITED = np.iinfo(np.int64).max
_BLOCK = 2**16


@dataclass(frozen=True, kw_only=True)
class Largest:
    """Worst-case lengths of segments, int64 [N]: of each side, and of both sides together."""

    inputs: np.ndarray
    targets: np.ndarray
    both: np.ndarray


class UL2Noise:
    """A configuration bound to a vocabulary.

    >>> vocab = VocabInfo(vocab_size=1000, num_sentinels=100, mode_ids={"R": (1000,)})
    >>> config = UL2Config(
    ...     denoisers=(Denoiser(name="R", kind="span", mean_span=2.0, rate=0.4, mode="R"),)
    ... )
    >>> noise = UL2Noise(config, vocab)
    >>> keys = rng.fold_in(7, [0])
    >>> segments = Ragged.from_rows([[10, 11, 12, 13, 14, 15, 16, 17, 18, 19]])
    >>> inputs, targets = noise.apply(segments, noise.draw(keys), keys)
    >>> inputs[0].tolist()
    [1000, 10, 11, 12, 13, 999, 15, 998, 19, 1]
    >>> targets[0].tolist()
    [999, 14, 998, 16, 17, 18, 1]
    >>> noise.lengths(noise.draw(keys), segments.lengths, keys)
    (array([10]), array([7]))
    >>> noise.undo(inputs[0], targets[0], 0).tolist()
    [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]

    Raises:
      ValueError: if a mode has no ids in the vocabulary or is still a text.
    """

    def __init__(self, config: UL2Config, vocab: VocabInfo):
        self.config, self.vocab = config, vocab
        denoisers = config.denoisers
        self._prefixes = Ragged.from_rows([config.mode_ids(d, vocab) for d in denoisers])
        # Per-denoiser columns, so that a batch of mixed denoisers is looked up by number.
        self._rate = np.array([d.rate for d in denoisers], np.float32)
        self._mean_span = np.array([d.mean_span or 1.0 for d in denoisers], np.float32)
        self._max_spans = np.array([d.max_spans or _UNLIMITED for d in denoisers])
        self._is_span = np.array([d.kind == "span" for d in denoisers])
        self._is_prefix = np.array([d.kind == "prefix" for d in denoisers])
        self._at_end = np.array([d.placement != "random" for d in denoisers])
        self._rolls = np.array([d.placement == "roll" for d in denoisers])
        self._marked = np.array([d.kind == "span" or d.sentinel for d in denoisers])

    @property
    def names(self) -> tuple[str, ...]:
        """The denoisers' names in order."""
        return tuple(denoiser.name for denoiser in self.config.denoisers)

    @property
    def mode_ids(self) -> dict[str, tuple[int, ...]]:
        """The ids that announce each mode of the denoisers that are drawn."""
        denoisers = [self.config.denoisers[number] for number in self.config.drawn]
        return {
            denoiser.mode: self.config.mode_ids(denoiser, self.vocab)
            for denoiser in denoisers
            if denoiser.mode is not None
        }

    def draw(self, keys_N: np.ndarray) -> np.ndarray:
        """int64 [N]: a denoiser for each example at the configured rates, from its own key."""
        return rng.choice(rng.fold_in(keys_N, _DRAW), self.config.probabilities)

    def lengths(
        self, denoiser_N: ArrayLike, raw_N: ArrayLike, keys_N: ArrayLike
    ) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`apply` will return, in tokens, without applying it.

        Args:
          denoiser_N: number of the denoiser of each segment.
          raw_N: tokens of each segment.
          keys_N: uint64 key of each segment (prefix cuts and rolled masks depend on it).

        Returns:
          (inputs_N, targets_N): int64, with mode tokens, sentinels and EOS.

        Raises:
          ValueError: if a segment needs more sentinels than the vocabulary has.
        """
        denoiser_N, raw_N, keys_N = self._columns(denoiser_N, raw_N, keys_N)
        noise_N, spans_N = self._counts(denoiser_N, raw_N, keys_N)
        return self._frame(denoiser_N).lengths(raw_N, noise_N, spans_N)

    def apply(
        self, tokens: Ragged, denoiser_N: ArrayLike, keys_N: ArrayLike
    ) -> tuple[Ragged, Ragged]:
        """Denoises every segment.

        Args:
          tokens: `N` segments of text ids, without EOS or padding.
          denoiser_N, keys_N: as for :meth:`lengths`.

        Returns:
          (inputs, targets), `N` rows each: mode tokens first in the inputs, EOS last on both sides.

        Raises:
          ValueError: if a segment needs more sentinels than the vocabulary has.
        """
        denoiser_N, raw_N, keys_N = self._columns(denoiser_N, tokens.lengths, keys_N)
        noise = self._spans(denoiser_N, raw_N, keys_N)
        self._check_sentinels(denoiser_N, raw_N, noise.counts_N)
        return corrupt(tokens, noise, self._frame(denoiser_N), self.vocab)

    def max_raw(self, denoiser: int, inputs_length: int, targets_length: int) -> int:
        """The most tokens a segment may have so that it, and every shorter one, always fits.

        This is T5's one-segment-per-row arithmetic (`random_spans_helper`), but with the mask's own
        rounding, the mode tokens reserved, and the worst draw of a prefix cut or a rolled mask.

        >>> vocab = VocabInfo(vocab_size=32100, num_sentinels=128)
        >>> noise = UL2Noise(PRESETS["ul2"].without_modes(), vocab)
        >>> [noise.max_raw(i, 512, 512) for i in range(7)]
        [568, 588, 512, 766, 908, 600, 1006]

        DIVERGES: T5's prefix_lm leaves one place free (511 for 512). At rate .5 T5 keeps targets no
        longer than inputs without the mode: 906 raw tokens for X2 at 512 with a mode, here 907.

        Args:
          denoiser: its number.
          inputs_length, targets_length: places on each side, with EOS.

        Raises:
          ValueError: if not even one token fits, or such a segment needs too many sentinels.
        """
        raw_N = np.arange(inputs_length + targets_length + 1)
        most = self.largest(denoiser, raw_N)
        fits = (most.inputs <= inputs_length) & (most.targets <= targets_length)
        longest = longest_fitting(fits)
        if longest < 1:
            raise ValueError(
                f"Denoiser {self.names[denoiser]!r} cannot fit one token into {inputs_length} "
                f"inputs and {targets_length} targets: lengthen the task feature lengths."
            )
        fitting_N = raw_N[: longest + 1]
        _, _, spans_N = self._extremes(denoiser, fitting_N)
        self._check_sentinels(np.full_like(fitting_N, denoiser), fitting_N, spans_N)
        return longest

    def check_sentinels(self, denoiser: int, raw: int) -> None:
        """Checks a segment of `raw` tokens before there is one, for every key it might have.

        Raises:
          ValueError: if it could need more sentinels than the vocabulary has.
        """
        raw_N = np.array([raw])
        _, _, spans_N = self._extremes(denoiser, raw_N)
        self._check_sentinels(np.array([denoiser]), raw_N, spans_N)

    def largest(self, denoiser: int, raw_N: ArrayLike) -> Largest:
        """The most places that segments of given raw lengths can take, whatever their keys.

        Sentinels are not counted against the vocabulary here; :meth:`lengths` does.
        """
        raw_N = np.asarray(raw_N, np.int64)
        least, most, spans_N = self._extremes(denoiser, raw_N)
        frame = self._frame(np.full_like(raw_N, denoiser))
        inputs_N, targets_of_least_N = frame.lengths(raw_N, least, spans_N)
        _, targets_N = frame.lengths(raw_N, most, spans_N)
        return Largest(inputs=inputs_N, targets=targets_N, both=inputs_N + targets_of_least_N)

    def undo(self, inputs: ArrayLike, targets: ArrayLike, denoiser: int) -> np.ndarray:
        """The segment's tokens back from one row of each side.

        Args:
          inputs, targets: 1-D ids as :meth:`apply` makes them, without padding.
          denoiser: number of the denoiser that made them.

        Raises:
          ValueError: if the two sides do not belong together.
        """
        self._check_numbers(denoiser)
        return restore(
            self._without_eos("Inputs", inputs, self.config.inputs_eos),
            self._without_eos("Targets", targets, self.config.targets_eos),
            self._prefixes[denoiser],
            bool(self._marked[denoiser]),
            self.vocab,
        )

    def _without_eos(self, name: str, side: ArrayLike, has_eos: bool) -> np.ndarray:
        ids = np.asarray(side)
        if not has_eos:
            return ids
        if not ids.size or ids[-1] != self.vocab.eos_id:
            raise ValueError(
                f"{name} end with {ids[-1:].tolist()}, not with EOS (id {self.vocab.eos_id})."
            )
        return ids[:-1]

    def _frame(self, denoiser_N: np.ndarray) -> Frame:
        return Frame(
            prefixes=self._prefixes,
            denoiser_N=denoiser_N,
            sentinels_N=self._marked[denoiser_N],
            inputs_eos=self.config.inputs_eos,
            targets_eos=self.config.targets_eos,
        )

    def _spans(self, denoiser_N: np.ndarray, raw_N: np.ndarray, keys_N: np.ndarray) -> spans.Spans:
        """The noise spans of every segment."""
        rows = np.flatnonzero(self._is_span[denoiser_N])
        rest = np.flatnonzero(~self._is_span[denoiser_N])
        parts = []
        if rows.size:
            parts.append((rows, self._corruption(denoiser_N[rows], raw_N[rows], keys_N[rows])))
        if rest.size:
            prefix = self._cuts(denoiser_N[rest], raw_N[rest], keys_N[rest])
            parts.append((rest, spans.tail_spans(prefix, raw_N[rest])))
        return spans.merge(parts)

    def _corruption(self, denoiser_N, raw_N, keys_N) -> spans.Spans:
        """Spans of "span" denoisers."""
        noise_N, spans_N = self._span_counts(denoiser_N, raw_N)
        at_end_N = self._at_end[denoiser_N]
        drawn = spans.random_spans(rng.fold_in(keys_N, _SPANS), raw_N, noise_N, spans_N, at_end_N)
        rolls_N = self._rolls[denoiser_N]
        if rolls_N.any():
            shift_N = rng.randint(rng.fold_in(keys_N, _SHIFT), 0, np.maximum(raw_N, 1)) * rolls_N
            drawn = spans.rotate(drawn, raw_N, shift_N)
        return drawn

    def _cuts(self, denoiser_N, raw_N, keys_N) -> np.ndarray:
        """Given tokens of "prefix" and (always 0) "causal" denoisers."""
        prefix_N = np.zeros(len(raw_N), np.int64)
        for number in np.unique(denoiser_N[self._is_prefix[denoiser_N]]):
            rows = np.flatnonzero(denoiser_N == number)
            d = self.config.denoisers[number]
            keys = rng.fold_in(keys_N[rows], _PIVOT)
            prefix_N[rows] = pivots.draw_prefixes(keys, raw_N[rows], d.rate, d.pivot, d.pivot_std)
        return prefix_N

    def _span_counts(self, denoiser_N, raw_N) -> tuple[np.ndarray, np.ndarray]:
        noise_N, spans_N = spans.span_counts(
            raw_N, self._rate[denoiser_N], self._mean_span[denoiser_N]
        )
        return noise_N, np.minimum(spans_N, self._max_spans[denoiser_N])

    def _counts(self, denoiser_N, raw_N, keys_N) -> tuple[np.ndarray, np.ndarray]:
        """Noise tokens and noise spans of every segment, with as little drawing as possible."""
        noise_N, spans_N = self._span_counts(denoiser_N, raw_N)
        if (rest := np.flatnonzero(~self._is_span[denoiser_N])).size:
            prefix = self._cuts(denoiser_N[rest], raw_N[rest], keys_N[rest])
            noise_N[rest], spans_N[rest] = raw_N[rest] - prefix, prefix < raw_N[rest]
        if (rolled := np.flatnonzero(self._rolls[denoiser_N])).size:
            drawn = self._corruption(denoiser_N[rolled], raw_N[rolled], keys_N[rolled])
            spans_N[rolled] = drawn.counts_N
        self._check_sentinels(denoiser_N, raw_N, spans_N)
        return noise_N, spans_N

    def _extremes(self, denoiser: int, raw_N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Least and most noise tokens, and most spans, that a segment can get."""
        self._check_numbers(denoiser)
        d = self.config.denoisers[denoiser]
        if d.kind == "causal":
            return raw_N, raw_N, np.minimum(raw_N, 1)
        if d.kind == "prefix":
            low, high = pivots.prefix_bounds(raw_N, d.rate, d.pivot)
            return raw_N - high, raw_N - low, (low < raw_N).astype(np.int64)
        noise_N, spans_N = self._span_counts(np.full_like(raw_N, denoiser), raw_N)
        # A rolled mask can split one span, if some span has two tokens.
        return noise_N, noise_N, spans_N + (noise_N > spans_N) * self._rolls[denoiser]

    def _columns(self, denoiser_N, raw_N, keys_N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of denoisers, raw lengths and keys as arrays of one length."""
        columns = np.broadcast_arrays(
            np.asarray(denoiser_N, np.int64), np.asarray(raw_N, np.int64), rng.as_key(keys_N)
        )
        self._check_numbers(columns[0])
        return tuple(np.atleast_1d(column) for column in columns)  # type: ignore[return-value]

    def _check_numbers(self, denoiser_N: ArrayLike) -> None:
        numbers = np.asarray(denoiser_N)
        if np.any(wrong := (numbers < 0) | (numbers >= len(self.names))):
            raise ValueError(
                f"There is no denoiser number {numbers[wrong][0]}: the {len(self.names)} of this "
                f"mixture ({', '.join(self.names)}) are numbered from 0."
            )

    def _check_sentinels(self, denoiser_N, raw_N, spans_N) -> None:
        needed_N = spans_N * self._marked[denoiser_N]
        available = self.vocab.num_sentinels
        if not needed_N.size or (needed := int(needed_N.max())) <= available:
            return
        row = int(np.argmax(needed_N))
        number, raw = int(denoiser_N[row]), int(raw_N[row])
        # From the shortest on: `raw` may be meant as "no limit".
        blocks = (np.arange(start, start + _BLOCK) for start in itertools.count(0, _BLOCK))
        beyond = (b[self._extremes(number, b)[2] > available] for b in blocks)
        longest = int(next(b[0] for b in beyond if b.size)) - 1
        fix = f"use a vocabulary with extra_ids >= {needed}, segments of at most {longest} tokens"
        if not self._is_span[number]:
            fix += ", or sentinel=False on the denoiser"
        elif (most := available - int(self._rolls[number])) > 0:  # a roll may split one span
            fix += f", or max_spans={most} on the denoiser"
        raise ValueError(
            f"Denoiser {self.names[number]!r} needs {needed} sentinels for a segment of {raw} "
            f"tokens, but the vocabulary has {available}: {fix}."
        )


def longest_fitting(fits: np.ndarray) -> int:
    """The most tokens a segment may have so that it, and every shorter one, fits.

    >>> longest_fitting(np.array([True, True, False, True]))
    1

    Args:
      fits: bool, whether a segment of 0, 1, 2, … tokens fits.

    Returns:
      The number of tokens; -1 if not even an empty segment fits.
    """
    return int(np.logical_and.accumulate(fits).sum()) - 1
