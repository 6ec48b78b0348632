"""Segments of token ids -> one batch of model features: SeqIO's feature converters as pure
functions.

`encoder_decoder`, `prefix_lm` and `causal_lm` give what SeqIO 0.0.20's `EncDecFeatureConverter`,
`PrefixLMFeatureConverter` and `LMFeatureConverter` give, with and without packing, to the last
integer (tested against their outputs). A numeric example, two examples packed into one row of 9
and 6::

    inputs  [7 8 5 1] [8 4 1]     targets [3 9 1] [4 1]

    encoder_input_tokens     7 8 5 1 8 4 1 0 0
    encoder_segment_ids      1 1 1 1 2 2 2 0 0
    encoder_positions        0 1 2 3 0 1 2 0 0
    decoder_target_tokens    3 9 1 4 1 0
    decoder_input_tokens     0 3 9 0 4 0        shifted within each segment: no EOS leaks
    decoder_segment_ids      1 1 1 2 2 0
    decoder_positions        0 1 2 0 1 0
    decoder_loss_weights     1 1 1 1 1 0

and the first of them as a prefix-LM row of 9::

    decoder_target_tokens    7 8 5 1 3 9 1 0 0
    decoder_input_tokens     0 7 8 5 1 3 9 1 0
    decoder_causal_attention 1 1 1 1 1 0 0 0 0  the inputs and where their last token is read
    decoder_loss_weights     0 0 0 0 1 1 1 0 0

DIVERGES from SeqIO: the length of an example is its length, not its count of non-zero ids, so a
token with id 0 inside a sequence neither cuts the sequence short nor loses its loss weight. In a
packed row an example that is empty on one side still counts there: SeqIO numbers encoder and
decoder segments apart, and decoders after an empty input attend to another example's. SeqIO's
prefix-LM puts a padding token, with a place of its own, where targets are empty; ours does not.
Ours adds `decoder_source_ids`.

Axis legend: N segments, R rows of the batch, L decoder length, S encoder length, T tokens of all
segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ul2tune.data.packing import Placement
from ul2tune.data.ragged import Ragged, offsets_of, ranges


@dataclass(frozen=True, kw_only=True)
class Segments:
    """N pairs to convert and where they go.

    Attributes:
      inputs, targets: token ids with whatever EOS the task appended; already short enough.
      placement: rows and segment numbers.
      packed: whether rows hold several segments: adds segment ids and positions.
      sources: int [N] source ids for `decoder_source_ids`, or None to leave that feature out.
    """

    inputs: Ragged
    targets: Ragged
    placement: Placement
    packed: bool
    sources: np.ndarray | None = None


def encoder_decoder(
    segments: Segments, inputs_length: int, targets_length: int
) -> dict[str, np.ndarray]:
    """Features of an encoder-decoder, int32 [R, S] and [R, L] each.

    Raises:
      ValueError: if a row's segments are longer than the row.
    """
    encoder = _Grid(segments.inputs, segments.placement, inputs_length, "inputs")
    decoder = _Grid(segments.targets, segments.placement, targets_length, "targets")
    batch = {"encoder_input_tokens": encoder.scatter(segments.inputs.values)}
    if segments.packed:
        batch |= encoder.packing("encoder")
    weights = np.ones(segments.targets.values.size, np.int32)
    return batch | _decoder(decoder, segments, segments.targets.values, weights)


def prefix_lm(
    segments: Segments, length: int, *, loss_on_inputs: bool = False
) -> dict[str, np.ndarray]:
    """Features of a decoder that attends in both directions over the inputs, int32 [R, L] each.

    Args:
      segments: inputs and targets are concatenated before they are packed.
      length: of a row; SeqIO takes the sum of the lengths of inputs and targets.
      loss_on_inputs: also train on the inputs (SeqIO: ``loss_on_targets_only=False``).

    Raises:
      ValueError: if a row's segments are longer than the row.
    """
    batch = causal_lm(segments, length, loss_on_inputs=loss_on_inputs)
    joined = segments.inputs.lengths + segments.targets.lengths
    bidirectional = np.minimum(segments.inputs.lengths + 1, joined)
    starts = segments.placement.row * length + segments.placement.starts(joined)
    mask = np.zeros((segments.placement.num_rows, length), np.int32)
    mask.reshape(-1)[ranges(starts, bidirectional)] = 1
    return batch | {"decoder_causal_attention": mask}


def causal_lm(
    segments: Segments, length: int, *, loss_on_inputs: bool = False
) -> dict[str, np.ndarray]:
    """Features of a decoder that attends to the left only, int32 [R, L] each; arguments as
    :func:`prefix_lm`.

    With empty inputs this is SeqIO's LM converter.
    """
    joined = concatenate(segments.inputs, segments.targets)
    grid = _Grid(joined, segments.placement, length, "inputs + targets")
    weights = np.ones(joined.values.size, np.int32)
    if not loss_on_inputs:
        weights[ranges(joined.offsets[:-1], segments.inputs.lengths)] = 0
    return _decoder(grid, segments, joined.values, weights)


def concatenate(first: Ragged, second: Ragged) -> Ragged:
    """Row-wise concatenation."""
    lengths = first.lengths + second.lengths
    starts = offsets_of(lengths)[:-1]
    values = np.empty(first.values.size + second.values.size, np.int32)
    values[ranges(starts, first.lengths)] = first.values
    values[ranges(starts + first.lengths, second.lengths)] = second.values
    return Ragged(values, lengths)


def truncate(tokens: np.ndarray, length: int, eos_id: int) -> np.ndarray:
    """The first `length` tokens; a sequence that ended with EOS still does, as after SeqIO's
    `append_eos_after_trim`.

    >>> truncate(np.array([5, 6, 7, 1]), 3, eos_id=1)
    array([5, 6, 1])
    """
    if tokens.size <= length:
        return tokens
    cut = tokens[:length].copy()
    if length and tokens[-1] == eos_id:
        cut[-1] = eos_id
    return cut


def _decoder(grid: _Grid, segments: Segments, values_T, weights_T) -> dict[str, np.ndarray]:
    target_tokens = grid.scatter(values_T)
    if segments.packed:
        shifted = np.zeros_like(values_T)
        shifted[1:] = values_T[:-1]
        shifted[grid.offsets[:-1][grid.lengths > 0]] = 0
        input_tokens = grid.scatter(shifted)
    else:
        input_tokens = np.zeros_like(target_tokens)
        input_tokens[:, 1:] = target_tokens[:, :-1]
    batch = {
        "decoder_target_tokens": target_tokens,
        "decoder_input_tokens": input_tokens,
        "decoder_loss_weights": grid.scatter(weights_T),
    }
    if segments.packed:
        batch |= grid.packing("decoder")
    if segments.sources is not None:
        batch["decoder_source_ids"] = grid.spread(segments.sources)
    return batch


class _Grid:
    """Where every token of N segments goes in an [R, L] array."""

    def __init__(self, tokens: Ragged, placement: Placement, length: int, name: str):
        self.lengths, self.offsets = tokens.lengths, tokens.offsets
        self.placement, self.shape = placement, (placement.num_rows, length)
        starts = placement.starts(tokens.lengths)
        if np.any(starts + tokens.lengths > length):
            worst = int(np.argmax(starts + tokens.lengths))
            raise ValueError(
                f"Row {placement.row[worst]} would hold {starts[worst] + tokens.lengths[worst]} "
                f"tokens of {name}, its length is {length}: truncate the examples or raise "
                "TASK_FEATURE_LENGTHS."
            )
        self.index_T = ranges(placement.row * length + starts, tokens.lengths)

    def scatter(self, values_T: np.ndarray) -> np.ndarray:
        """int32 [R, L] with the values in place and zeros elsewhere."""
        grid = np.zeros(self.shape, np.int32)
        grid.reshape(-1)[self.index_T] = values_T
        return grid

    def spread(self, values_N: np.ndarray) -> np.ndarray:
        """One value per segment, repeated over its tokens."""
        return self.scatter(np.repeat(np.asarray(values_N, np.int32), self.lengths))

    def packing(self, side: str) -> dict[str, np.ndarray]:
        """Segment ids (1, 2, …) and positions that restart in each segment."""
        positions = np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], self.lengths)
        return {
            f"{side}_segment_ids": self.spread(self.placement.segment),
            f"{side}_positions": self.scatter(positions),
        }
