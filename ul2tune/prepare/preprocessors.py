"""UL2 noise as a SeqIO preprocessor: the face of `ul2tune.data.ul2` that SeqIO programs see.

Training does not run this (the feed calls the same NumPy code without TensorFlow); SeqIO, T5X and
`inspect` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import seqio

from ul2tune.data import rng
from ul2tune.data.ragged import Ragged
from ul2tune.data.ul2 import UL2Config, UL2Noise
from ul2tune.prepare.runtime import tf
from ul2tune.prepare.seqio_vocab import from_seqio


class UL2Preprocessor:
    """Concatenates documents, cuts segments, draws a denoiser for each and applies it.

    Put it after `seqio.CacheDatasetPlaceholder()`; the elements before it hold token ids under
    `feature`, those after it `inputs` and `targets`, both ended by EOS and never longer than
    `sequence_length`, because a segment is cut to what its denoiser fits
    (`UL2Noise.max_raw`, T5's `random_spans_helper`).

    Every `window` documents are one draw of SeqIO's map seeds: with `seed` given to
    `get_dataset`, the same elements come out every time; without, other ones each time.

    Args:
      config: the denoisers and their rates.
      feature: the feature that holds the raw text's ids.
      window: documents concatenated before they are cut; at most the last segment of a window is
        shorter than its denoiser allows.
      min_tokens: shorter remainders at the end of a window are dropped.
    """

    def __init__(
        self,
        config: UL2Config,
        *,
        feature: str = "targets",
        window: int = 128,
        min_tokens: int = 8,
    ):
        self.config, self.feature = config, feature
        self.window, self.min_tokens = window, min_tokens

    def online_config(self, output_features: Mapping[str, Any]) -> dict[str, Any]:
        """What the feed needs to do the same: plain JSON, mode texts replaced by their ids."""
        return {
            "kind": "ul2",
            "feature": self.feature,
            "config": self._bind(output_features).config.to_json(),
        }

    def __call__(
        self,
        dataset: tf.data.Dataset,
        sequence_length: Mapping[str, int] | None,
        output_features: Mapping[str, Any],
    ) -> tf.data.Dataset:
        noise = self._bind(output_features)
        names, inputs_length, targets_length = self._lengths(sequence_length)
        # What is never drawn need not fit, and does not count as the shortest.
        most_D = np.full(len(self.config.denoisers), np.iinfo(np.int64).max)
        for number in self.config.drawn:
            most_D[number] = noise.max_raw(number, inputs_length, targets_length)

        def corrupt(values: np.ndarray, seed: np.ndarray):
            key = rng.fold_in(int(seed[0]), int(seed[1]))
            inputs, targets = cut_and_corrupt(values, key, noise, most_D, self.min_tokens)
            return inputs.values, inputs.lengths, targets.values, targets.lengths

        @seqio.map_over_dataset(num_seeds=1)
        def denoise(rows: tf.RaggedTensor, seed: tf.Tensor):
            sides = tf.numpy_function(
                corrupt, [rows.flat_values, seed], [tf.int32, tf.int64] * 2, stateful=False
            )
            flat = [tf.ensure_shape(side, [None]) for side in sides]
            ragged: Any = tf.RaggedTensor
            both = {
                "inputs": ragged.from_row_lengths(*flat[:2]),
                "targets": ragged.from_row_lengths(*flat[2:]),
            }
            return {name: both[name] for name in names}

        dataset = dataset.map(lambda element: tf.cast(element[self.feature], tf.int32))
        # SeqIO passes the seeds.
        return cast(Any, denoise)(dataset.ragged_batch(self.window)).unbatch()

    def _lengths(self, lengths: Mapping[str, int] | None) -> tuple[tuple[str, ...], int, int]:
        """(features to make, room for inputs, room for targets)."""
        lengths = lengths or {}
        if "inputs" in lengths and "targets" in lengths:
            return ("inputs", "targets"), lengths["inputs"], lengths["targets"]
        # A causal objective hides everything: for language models there are only targets.
        if "targets" in lengths and self.config.is_causal:
            return ("targets",), lengths["targets"], lengths["targets"]
        raise ValueError(
            f"UL2 noise cuts segments to the feature lengths, got {dict(lengths)}. Pass "
            '`get_dataset({"inputs": …, "targets": …})`.'
        )

    def _bind(self, output_features: Mapping[str, Any]) -> UL2Noise:
        vocabulary = from_seqio(output_features[self.feature].vocabulary)
        return UL2Noise(self.config.tokenize_modes(vocabulary.encode), vocabulary.info)


def cut_and_corrupt(
    values: np.ndarray, key: np.ndarray, noise: UL2Noise, most_D: np.ndarray, min_tokens: int
) -> tuple[Ragged, Ragged]:
    """Cuts one stream of tokens into segments and denoises them.

    Args:
      values: int32 [T], documents back to back.
      key: uint64 scalar; the result is a pure function of it and `values`.
      noise: the denoisers.
      most_D: the longest segment of each denoiser that may be drawn.
      min_tokens: a shorter last segment is dropped, unless its denoiser takes no more.

    Returns:
      inputs and targets, one row per segment.
    """
    # Enough draws to use up the stream even if all were the shortest.
    num_draws = values.size // int(most_D.min()) + 1
    keys_N = rng.fold_in(key, np.arange(num_draws))
    denoiser_N = noise.draw(keys_N)
    ends_N = np.minimum(np.cumsum(most_D[denoiser_N]), values.size)
    lengths_N = np.diff(ends_N, prepend=0)
    # Only the last segment with text can be a remainder; a denoiser may well have shorter ones.
    is_long = lengths_N >= min(min_tokens, values.size)
    rows = np.flatnonzero((lengths_N > 0) & (is_long | (lengths_N == most_D[denoiser_N])))
    segments = Ragged(values[: int(lengths_N[rows].sum())], lengths_N[rows])
    return noise.apply(segments, denoiser_N[rows], keys_N[rows])
