"""Whole T5 and UL2 pipelines, row for row as SeqIO makes them from a seed, without TensorFlow.

This is the proof that nothing is missing between a mask and a training example, and the way to
continue such a data order. `seqio.map_seed_manager(S)` gives the seeded maps ``(S, S + 1)``,
``(S + 2, S + 3)``, … in the order in which the pipeline is built.

Reference: `span_corruption` and `prefix_lm` of `t5/data/preprocessors.py`; `ul2_objective` of the
UL2 paper's appendix 9.2 (arXiv:2205.05131); `seqio.preprocessors.append_eos_after_trim`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ul2tune.data import chunks, t5_compat
from ul2tune.data.ragged import Ragged
from ul2tune.data.tf_rng import dataset_choices, dataset_seeds
from ul2tune.data.vocab_info import VocabInfo

_CHUNK_TOKENS, _CONCAT_DOCUMENTS = 65536, 128
Rows = tuple[Ragged, Ragged]


@dataclass(frozen=True, kw_only=True)
class UL2Objective:
    """The arguments of the appendix's `ul2_objective`.

    Attributes:
      spans: (mean span length, corruption rate) of each span-corruption denoiser.
      prefix_lm: whether T5's prefix_lm comes after them.
      rates: how often each is drawn; None for equal rates.
      prefixes: mode token ids of each denoiser, or empty for none.
      inputs_length, targets_length: feature lengths, EOS included.
      reserved: places taken off the lengths for the mode tokens.
      shard: whether each denoiser reads its own share of the documents.
      sampling_seed: seed of the mixing.

    Raises:
      ValueError: if rates or prefixes do not fit the denoisers.
    """

    spans: tuple[tuple[float, float], ...]
    prefix_lm: bool = False
    rates: tuple[float, ...] | None = None
    prefixes: tuple[tuple[int, ...], ...] = ()
    inputs_length: int = 512
    targets_length: int = 512
    reserved: int = 0
    shard: bool = True
    sampling_seed: int = 7

    def __post_init__(self):
        count = self.num_denoisers
        if not count:
            raise ValueError("UL2Objective has no denoisers: give spans, or prefix_lm=True.")
        if len(self.prefixes) not in (0, count):
            raise ValueError(
                f"UL2Objective has {len(self.prefixes)} prefixes {self.prefixes} for {count} "
                "denoisers (spans, then prefix_lm): give one each, or none."
            )
        if self.rates is None:
            return
        if len(self.rates) != count:
            raise ValueError(
                f"UL2Objective has {len(self.rates)} rates {self.rates} for {count} denoisers "
                "(spans, then prefix_lm): give one each, or None for equal rates."
            )
        if not all(0.0 <= rate < math.inf for rate in self.rates) or not any(self.rates):
            raise ValueError(
                f"UL2Objective has rates {self.rates}: none may be negative, one must be positive."
            )

    @property
    def num_denoisers(self) -> int:
        """How many there are, prefix_lm included."""
        return len(self.spans) + int(self.prefix_lm)


def span_corruption(
    documents: Ragged,
    *,
    seed: int,
    vocab: VocabInfo,
    inputs_length: int = 512,
    targets_length: int = 512,
    mean_span: float = 3.0,
    rate: float = 0.15,
    max_rows: int | None = None,
) -> Rows:
    """T5's `span_corruption`: (inputs, targets), a row per example, with EOS.

    Args:
      documents: token ids, a row per document, in the order the pipeline reads them.
      seed: the seed manager's initial seed.
      vocab: the reserved ids.
      inputs_length, targets_length: feature lengths, EOS included.
      mean_span, rate: of the corruption.
      max_rows: stop after so many rows.

    Raises:
      ValueError: if the targets would not fit.
    """
    raw = _segment_tokens("Span corruption", mean_span, rate, inputs_length, targets_length)
    rows = chunks.split_tokens(_concatenated(documents, seed), raw)
    pairs = (
        t5_compat.span_corrupt(row, rate, mean_span, pair, vocab)
        for row, pair in _seeded(rows, seed + 4, max_rows)
    )
    return _finished(pairs, vocab, inputs_length, targets_length)


def ul2_objective(
    documents: Ragged,
    objective: UL2Objective,
    *,
    seed: int,
    vocab: VocabInfo,
    max_rows: int | None = None,
) -> Rows:
    """The UL2 mixture of the paper's appendix: (inputs, targets), a row per example, with EOS.

    Args:
      documents, seed, vocab, max_rows: as for :func:`span_corruption`.
      objective: the denoisers.

    Raises:
      ValueError: if the targets of a denoiser would not fit.
    """
    segments = list(_segments(_concatenated(documents, seed), objective, seed + 2))
    seeds = [dataset_seeds(first, len(rows)) for rows, first in segments]
    pairs = []
    for which, number in _mixed([len(rows) for rows, _ in segments], objective, max_rows):
        tokens, pair = segments[which][0][number], seeds[which][number]
        if which < len(objective.spans):
            mean_span, rate = objective.spans[which]
            inputs, targets = t5_compat.span_corrupt(tokens, rate, mean_span, pair, vocab)
        else:
            inputs, targets = t5_compat.prefix_split(tokens, 0.5, pair)
        prefix = objective.prefixes[which] if objective.prefixes else ()
        pairs.append((np.concatenate([np.array(prefix, np.int32), inputs]), targets))
    return _finished(pairs, vocab, objective.inputs_length, objective.targets_length)


def _concatenated(documents: Ragged, seed: int) -> Ragged:
    chosen = chunks.select_random_chunk(documents, _CHUNK_TOKENS, seed=seed)
    return chunks.concat_tokens(chosen, _CONCAT_DOCUMENTS)


def _segments(rows: Ragged, objective: UL2Objective, seed: int) -> Iterator[tuple[Ragged, int]]:
    """Segments of each denoiser, with the seed of the map that denoises them."""
    inputs_length = objective.inputs_length - objective.reserved
    num_shards = objective.num_denoisers
    step = num_shards if objective.shard else 1
    for i, (mean_span, rate) in enumerate(objective.spans):
        raw = _segment_tokens(
            f"Denoiser {i}", mean_span, rate, inputs_length, objective.targets_length
        )
        own = rows.take(np.arange(len(rows))[i % step :: step])
        yield chunks.split_tokens(own, raw), seed + 2  # `seed` itself went to the splitting map
        seed += 4
    if objective.prefix_lm:
        own = rows.take(np.arange(len(rows))[(num_shards - 1) % step :: step])
        own = chunks.select_random_chunk(own, _CHUNK_TOKENS, seed=seed)
        yield chunks.split_tokens(own, inputs_length - 1), seed + 4


def _segment_tokens(
    name: str, mean_span: float, rate: float, inputs_length: int, targets_length: int
) -> int:
    """Raw tokens of a segment for full inputs, if its targets fit by T5's arithmetic."""
    raw, targets = t5_compat.random_spans_helper(inputs_length, rate, mean_span)
    if targets > targets_length:
        raise ValueError(
            f"{name} (mean {mean_span}, rate {rate}) makes {targets} targets, more than "
            f"targets_length={targets_length}: give it at least that."
        )
    return raw


def _mixed(
    sizes: Sequence[int], objective: UL2Objective, max_rows: int | None
) -> Iterator[tuple[int, int]]:
    """(denoiser, its segment's number) in the order `sample_from_datasets` yields them."""
    weights = objective.rates or (1.0,) * len(sizes)
    total = sum(size for size, weight in zip(sizes, weights, strict=True) if weight > 0)
    total = total if max_rows is None else min(max_rows, total)
    used, draws, position = [0] * len(sizes), 4 * total + 64, 0
    order = dataset_choices(weights, objective.sampling_seed, draws)
    while sum(used) < total:
        if position == len(order):  # many turns to exhausted datasets
            draws *= 4
            order = dataset_choices(weights, objective.sampling_seed, draws)
        which = int(order[position])
        position += 1
        if used[which] < sizes[which]:
            yield which, used[which]
            used[which] += 1


def _seeded(rows: Ragged, seed: int, max_rows: int | None) -> Iterator[tuple]:
    rows = rows.take(np.arange(len(rows))[:max_rows])
    return zip(rows, dataset_seeds(seed, len(rows)), strict=True)


def _finished(pairs, vocab: VocabInfo, inputs_length: int, targets_length: int) -> Rows:
    """`append_eos_after_trim`: what is too long loses its end."""
    rows = [
        (
            np.append(inputs[: inputs_length - 1], vocab.eos_id),
            np.append(targets[: targets_length - 1], vocab.eos_id),
        )
        for inputs, targets in pairs
    ]
    return Ragged.from_rows(row[0] for row in rows), Ragged.from_rows(row[1] for row in rows)
