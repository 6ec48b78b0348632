"""From documents to segments: random chunks, concatenation and splitting, as T5 prepares text.

Axes: ``N`` documents or segments. All functions keep every token id, id 0 included.

Reference: `select_random_chunk`, `reduce_concat_tokens` and `split_tokens` of
`t5/data/preprocessors.py`; with a `seed`, their results for `seqio.map_seed_manager(seed)`.
"""

from __future__ import annotations

import numpy as np

from ul2tune.data.ragged import Ragged, ranges
from ul2tune.data.tf_rng import dataset_seeds, stateless_split, stateless_uniform


def select_random_chunk(documents: Ragged, max_length: int, *, seed: int) -> Ragged:
    """One chunk of each document; empty documents are dropped.

    A document is divided into chunks of `max_length` tokens (the last one may be shorter) and one
    of them is drawn with equal probability.

    Args:
      documents: token ids.
      max_length: longest chunk, in tokens.
      seed: SeqIO's seed of the map.

    Raises:
      ValueError: if `max_length` is not positive.
    """
    _check_positive("max_length", max_length)
    documents = documents.take(np.flatnonzero(documents.lengths))
    seeds = dataset_seeds(seed, len(documents))
    num_chunks = -(-documents.lengths // max_length)
    drawn = [
        int(stateless_uniform(stateless_split(pair, 2)[1], 1, 0, int(num))[0]) if num > 1 else 0
        for pair, num in zip(seeds, num_chunks, strict=True)
    ]
    start = max_length * np.asarray(drawn, np.int64)
    length = np.minimum(documents.lengths - start, max_length)
    return Ragged(documents.values[ranges(documents.offsets[:-1] + start, length)], length)


def concat_tokens(documents: Ragged, batch_size: int = 128) -> Ragged:
    """Joins every `batch_size` documents into one row (the last row may join fewer).

    >>> concat_tokens(Ragged.from_rows([[7, 0], [8], [9, 4]]), 2).values.tolist()
    [7, 0, 8, 9, 4]

    DIVERGES: T5 pads, flattens and then removes all zeros, and with them id 0 from the text.
    """
    _check_positive("batch_size", batch_size)
    edges = documents.offsets[:-1:batch_size]
    lengths = np.diff(np.append(edges, documents.values.size))
    return Ragged(documents.values, lengths)


def split_tokens(
    rows: Ragged, max_length: int, *, min_length: int | None = None, seed: int | None = None
) -> Ragged:
    """Cuts each row into segments of `max_length` tokens; the last one keeps the rest.

    >>> split_tokens(Ragged.from_rows([[1, 2, 3, 4, 5], [6]]), 2).lengths
    array([2, 2, 1, 1])

    Args:
      rows: token ids; empty rows give no segment.
      max_length: tokens per segment.
      min_length: if given, each row draws its own segment length, log-uniformly between
        `min_length` and `max_length`; needs `seed`.
      seed: SeqIO's seed of the map.

    Raises:
      ValueError: if a length is not positive, or only one of `min_length` and `seed` is given.
    """
    _check_positive("max_length", max_length)
    if (min_length is None) != (seed is None):
        raise ValueError(
            f"split_tokens got min_length={min_length} and seed={seed}: give both or neither."
        )
    rows = rows.take(np.flatnonzero(rows.lengths))  # before seeds are given out, as T5 does
    if min_length is None or seed is None:
        size_N = np.full(len(rows), max_length)
    else:
        _check_positive("min_length", min_length)
        size_N = _log_uniform(min_length, max_length, dataset_seeds(seed, len(rows)))
    num_N = -(-rows.lengths // size_N)
    at = ranges(np.zeros(len(rows), np.int64), num_N)  # segment number within its row
    rest = np.repeat(rows.lengths, num_N) - at * np.repeat(size_N, num_N)
    return Ragged(rows.values, np.minimum(rest, np.repeat(size_N, num_N)))


def _log_uniform(low: int, high: int, seeds: np.ndarray) -> np.ndarray:
    """int64 [N], `low` to `high`; rounding may give one less than `low`, which is at least 1.

    NUMERICS: float32 as in T5, but for the exponential, which is rounded from float64: TensorFlow's
    is right to the last bit but one time in a thousand, NumPy's own in float32 every other time.
    """
    log_low, log_high = np.log([low, high]).astype(np.float32)
    draws = np.array([stateless_uniform(pair, 1)[0] for pair in seeds], np.float32)
    logs = draws * (log_high - log_low) + log_low
    return np.exp(logs.astype(np.float64)).astype(np.float32).astype(np.int64)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}: give at least 1.")
