"""T5's own draws: what its preprocessors make from given TensorFlow seeds, bit for bit.

For comparison with T5 and for whoever must continue one of its data orders. Training does not use
it: `data/ul2.py` draws whole batches at once, from the same distributions with placement "tail"
or "roll".

Reference: `t5/data/preprocessors.py` of the text-to-text-transfer-transformer repository
(`random_spans_helper`, `random_spans_noise_mask`, `random_prefix_noise_mask`,
`single_example_denoise`). Whole pipelines: `data/t5_pipelines.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ul2tune.data import spans
from ul2tune.data.denoise import Frame, corrupt
from ul2tune.data.pivots import prefix_bounds
from ul2tune.data.ragged import Ragged
from ul2tune.data.tf_rng import Seed, stateless_shuffle, stateless_split, stateless_uniform
from ul2tune.data.vocab_info import VocabInfo


def random_spans_helper(
    inputs_length: int, rate: float, mean_span: float, extra_inputs: int = 1, extra_targets: int = 1
) -> tuple[int, int]:
    """T5's raw tokens and targets length for full inputs, with its rounding.

    >>> random_spans_helper(512, 0.15, 3.0)
    (568, 114)
    >>> random_spans_helper(64, 0.2, 2.0)
    (70, 22)

    It rounds in float64 and lets the number of spans be 0, which the mask does not: for some
    lengths its answers do not fit (use `UL2Noise.max_raw`).

    Args:
      inputs_length: places for inputs, EOS included.
      rate, mean_span: corruption rate and mean span length.
      extra_inputs, extra_targets: sentinels per span on each side.

    Returns:
      (tokens_length, targets_length): raw tokens, and targets with EOS.
    """

    def sides(tokens: int) -> tuple[int, int]:
        noise = round(tokens * rate)
        num_spans = round(noise / mean_span)
        inputs = tokens - noise + num_spans * extra_inputs + 1
        return inputs, noise + num_spans * extra_targets + 1

    tokens = inputs_length - 1
    while sides(tokens + 1)[0] <= inputs_length:
        tokens += 1
    inputs, targets = sides(tokens)
    if rate == 0.5 and targets > inputs:  # T5 keeps the targets no longer than the inputs
        return tokens - 1, targets - 1
    return tokens, targets


def random_spans_mask(
    length: int,
    rate: float,
    mean_span: float,
    seeds: Sequence[Seed] | np.ndarray,
    random_roll: bool = False,
) -> np.ndarray:
    """`random_spans_noise_mask`: boolean [length].

    >>> random_spans_mask(8, 0.25, 1.0, [(1, 2), (3, 4)]).astype(int).tolist()
    [0, 0, 1, 0, 0, 0, 0, 1]

    Args:
      length: tokens of the segment.
      rate, mean_span: corruption rate and mean span length.
      seeds: two seed pairs, for the noise spans and for the kept spans.
      random_roll: whether to rotate the mask by a random offset.
    """
    if rate == 0.0 or length < 1:
        return np.zeros(length, bool)
    full = max(length, 2)  # a single token is the start of a mask of two
    (noise,), (count,) = spans.span_counts(np.array([full]), rate, mean_span)
    noise_lengths = _random_parts(int(noise), int(count), seeds[0])
    kept_lengths = _random_parts(full - int(noise), int(count), seeds[1])
    runs = np.stack([kept_lengths, noise_lengths], axis=1).reshape(-1)
    mask = np.repeat(np.arange(runs.size) % 2 == 1, runs)[:length]
    if random_roll:
        (a0, a1), (b0, b1) = (tuple(int(word) for word in seed) for seed in seeds[:2])
        shift = stateless_uniform((a0 + b1, a1 - b0), 1, 0, full)[0]
        mask = np.roll(mask, shift)
    return mask


def random_prefix_length(length: int, rate: float, seed: Seed) -> int:
    """`random_prefix_noise_mask`: how many tokens are given; the rest is noise.

    Args:
      length: tokens of the segment; less than 2 are all noise.
      rate: mean fraction of noise, at most .5.
      seed: T5's first seed pair.
    """
    if rate > 0.5:
        raise ValueError(f"T5 has no prefix mask for rate {rate}: use at most 0.5.")
    if length < 2:
        return 0
    (low,), (high,) = prefix_bounds(np.array([length]), rate, "uniform")
    return int(stateless_uniform(seed, 1, int(low), int(high) + 1)[0])


def span_corrupt(
    tokens: np.ndarray,
    rate: float,
    mean_span: float,
    seed: Seed,
    vocab: VocabInfo,
    *,
    random_roll: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """`single_example_denoise` with unique sentinels on both sides: (inputs, targets) without EOS.

    DIVERGES: with `random_roll` the targets follow the noise spans (see `data/denoise.py`); T5's
    do not line up with its inputs where a rolled mask starts with noise. Beyond the vocabulary's
    sentinels T5 goes on into its word pieces, unasked (31999 and below); to get those ids, give a
    `vocab` with the same `vocab_size` and as many `num_sentinels` as there are spans.

    Args:
      tokens: 1-D ids of one segment.
      rate, mean_span: corruption rate and mean span length.
      seed: the example's seed pair, as SeqIO gives it to the map.
      vocab: the reserved ids.
      random_roll: whether to rotate the mask by a random offset.

    Raises:
      ValueError: if the segment needs more sentinels than the vocabulary has.
    """
    mask_seeds = stateless_split(seed, 6)[:2]  # the other four are for functions that draw too
    mask = random_spans_mask(len(tokens), rate, mean_span, mask_seeds, random_roll)
    frame = Frame(
        prefixes=Ragged.from_rows([[]]),
        denoiser_N=np.zeros(1, np.int64),
        sentinels_N=np.ones(1, bool),
        inputs_eos=False,
        targets_eos=False,
    )
    noise = spans.from_mask(Ragged.from_rows([mask], dtype=bool))
    inputs, targets = corrupt(Ragged.from_rows([tokens]), noise, frame, vocab)
    if len(tokens) and not mask.any():
        # T5 gives every *kept* span a sentinel in the targets, a segment without noise too.
        return inputs.values, np.array([vocab.sentinels[0]], targets.values.dtype)
    return inputs.values, targets.values


def prefix_split(tokens: np.ndarray, rate: float, seed: Seed) -> tuple[np.ndarray, np.ndarray]:
    """T5's prefix-LM denoising of one segment: (inputs, targets) without EOS."""
    cut = random_prefix_length(len(tokens), rate, stateless_split(seed, 6)[0])
    return tokens[:cut], tokens[cut:]


def _random_parts(total: int, parts: int, seed: Seed) -> np.ndarray:
    """Divides `total` into `parts` parts of at least 1, all divisions equally likely."""
    first = np.zeros(total, np.int64)
    first[1:] = stateless_shuffle((np.arange(total - 1) < parts - 1).astype(np.int64), seed)
    return np.bincount(np.cumsum(first))
