"""From tokens and noise spans to inputs and targets, and back.

    tokens      10 11 12 13 14 15 16 17          noise spans  12 13  and  17
    inputs      [mode] 10 11 <0> 14 15 16 <1> EOS
    targets     <0> 12 13 <1> 17 EOS

Every denoiser is this one operation on other spans: span corruption has many, prefix-LM one that
ends the segment (without a sentinel, unless asked for), causal LM one that is the whole segment.
The k-th *noise span* of a segment is the k-th sentinel on both sides, and nothing is dropped: text
tokens keep their ids, id 0 included.

Sentinel ``k`` is `VocabInfo.sentinels[k]`: ``vocab_size - 1 - k`` by T5's convention (32099, 32098,
… of 32100), or any reserved token.

Axes: ``N`` segments, ``M`` noise spans of all segments together, ``T`` tokens of all together.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ul2tune.data.ragged import Ragged, offsets_of, ranges
from ul2tune.data.spans import Spans
from ul2tune.data.vocab_info import VocabInfo


@dataclass(frozen=True, eq=False)
class Frame:
    """What surrounds the tokens of each segment.

    Attributes:
      prefixes: mode tokens put first in the inputs, a row per *denoiser* (possibly empty).
      denoiser_N: which row of `prefixes` each segment gets.
      sentinels_N: bool, whether spans are replaced by sentinels.
      inputs_eos, targets_eos: whether the end-of-sequence id is appended.
    """

    prefixes: Ragged
    denoiser_N: np.ndarray
    sentinels_N: np.ndarray
    inputs_eos: bool = True
    targets_eos: bool = True

    def lengths(
        self, tokens_N: np.ndarray, noise_N: np.ndarray, spans_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Exact lengths of inputs and targets; :func:`corrupt` asserts them.

        Args:
          tokens_N, noise_N, spans_N: tokens, noise tokens and noise spans of each segment.

        Returns:
          (inputs_N, targets_N): int64 counts with mode tokens, sentinels and EOS.
        """
        marks_N = spans_N * self.sentinels_N
        prefix_N = self.prefixes.lengths[self.denoiser_N]
        return (
            prefix_N + tokens_N - noise_N + marks_N + int(self.inputs_eos),
            noise_N + marks_N + int(self.targets_eos),
        )


def corrupt(tokens: Ragged, spans: Spans, frame: Frame, vocab: VocabInfo) -> tuple[Ragged, Ragged]:
    """Moves the noise spans of each segment from the inputs to the targets.

    A span at the start of the segment, as a rolled mask has it, is aligned like any other:

    >>> vocab = VocabInfo(vocab_size=1000, num_sentinels=10)
    >>> mode = Ragged.from_rows([[1000]])
    >>> frame = Frame(mode, denoiser_N=np.array([0]), sentinels_N=np.array([True]))
    >>> tokens = Ragged.from_rows([[10, 11, 12, 13, 14, 15]])
    >>> spans = Spans(np.array([0, 3]), np.array([1, 2]), np.array([2]))  # mask x . . x x .
    >>> inputs, targets = corrupt(tokens, spans, frame, vocab)
    >>> inputs.values.tolist()
    [1000, 999, 11, 12, 998, 15, 1]
    >>> targets.values.tolist()
    [999, 10, 998, 13, 14, 1]

    DIVERGES: T5 numbers the targets' sentinels by *kept* span, so where a mask starts with noise
    its two sides disagree (10 999 13 14 998 above). Where a mask starts kept, both are equal.

    Args:
      tokens: the segments; ids are copied as they are.
      spans: their noise spans.
      frame: what surrounds them; see :class:`Frame`.
      vocab: the reserved ids.

    Returns:
      (inputs, targets), `N` rows each, of exactly the lengths `frame.lengths` gives.

    Raises:
      ValueError: if a segment needs more sentinels than the vocabulary has.
    """
    _check_sentinels(tokens.lengths, spans.counts_N * frame.sentinels_N, vocab.num_sentinels)
    inputs_N, targets_N = frame.lengths(tokens.lengths, spans.noise_N, spans.counts_N)
    inputs_at, targets_at = offsets_of(inputs_N), offsets_of(targets_N) + inputs_N.sum()
    # One buffer for both sides: inputs of all segments, then targets of all segments.
    buffer = np.empty(targets_at[-1], np.int32)
    rows_M, prefix_N = spans.rows_M, frame.prefixes.lengths[frame.denoiser_N]
    index_M = np.arange(rows_M.size) - spans.offsets[rows_M]  # span number within its segment
    marks_M = frame.sentinels_N[rows_M]
    kept_from_N = inputs_at[:-1] + prefix_N
    input_mark_M = kept_from_N[rows_M] + spans.starts_M - spans.noise_before_M + index_M * marks_M
    target_mark_M = targets_at[rows_M] + spans.noise_before_M + index_M * marks_M

    _move_tokens(tokens, spans, buffer, (kept_from_N, input_mark_M, target_mark_M), marks_M)
    sentinel_M = vocab.sentinels[index_M[marks_M]]
    buffer[input_mark_M[marks_M]] = sentinel_M
    buffer[target_mark_M[marks_M]] = sentinel_M
    prefix_from_N = frame.prefixes.offsets[frame.denoiser_N]
    buffer[ranges(inputs_at[:-1], prefix_N)] = frame.prefixes.values[
        ranges(prefix_from_N, prefix_N)
    ]
    if frame.inputs_eos:
        buffer[inputs_at[1:] - 1] = vocab.eos_id
    if frame.targets_eos:
        buffer[targets_at[1:] - 1] = vocab.eos_id
    split = inputs_at[-1]
    return Ragged(buffer[:split], inputs_N), Ragged(buffer[split:], targets_N)


def _check_sentinels(lengths_N: np.ndarray, needed_N: np.ndarray, available: int) -> None:
    row = int(np.argmax(needed_N)) if needed_N.size else 0
    if needed_N.size and needed_N[row] > available:
        raise ValueError(
            f"A segment of {lengths_N[row]} tokens has {needed_N[row]} noise spans, but the "
            f"vocabulary has {available} sentinels: give it (num_sentinels, extra_ids) at least "
            f"{needed_N[row]}, or ask for shorter segments, longer spans or a lower rate."
        )


def _move_tokens(
    tokens: Ragged,
    spans: Spans,
    buffer: np.ndarray,
    to: tuple[np.ndarray, np.ndarray, np.ndarray],
    marks_M: np.ndarray,
) -> None:
    """Copies every token to its place in the buffer, run by run.

    Each segment is kept, noise, kept, …, noise, kept: 2 spans + 1 runs (a kept run may be empty).
    Within a run the distance between a token and its place is constant.
    """
    kept_from_N, input_mark_M, target_mark_M = to
    tokens_at = tokens.offsets
    # Runs in order: each segment's first is kept; then, per span, its noise and the kept run after.
    first_N = 2 * spans.offsets[:-1] + np.arange(len(tokens))
    noise_M = 2 * np.arange(spans.rows_M.size) + spans.rows_M + 1
    starts = np.empty(2 * spans.rows_M.size + len(tokens) + 1, np.int64)
    distance = np.empty(starts.size - 1, np.int64)
    span_at_M = tokens_at[spans.rows_M] + spans.starts_M
    starts[first_N], distance[first_N] = tokens_at[:-1], kept_from_N - tokens_at[:-1]
    starts[noise_M], distance[noise_M] = span_at_M, target_mark_M + marks_M - span_at_M
    after_M = span_at_M + spans.lengths_M
    starts[noise_M + 1], distance[noise_M + 1] = after_M, input_mark_M + marks_M - after_M
    starts[-1] = tokens.values.size
    place_T = np.repeat(distance, np.diff(starts))
    place_T += np.arange(place_T.size)
    buffer[place_T] = tokens.values


def restore(
    inputs: np.ndarray, targets: np.ndarray, prefix: np.ndarray, sentinels: bool, vocab: VocabInfo
) -> np.ndarray:
    """Puts the noise back: the inverse of :func:`corrupt` for one segment, EOS already removed.

    >>> vocab = VocabInfo(vocab_size=1000, num_sentinels=10)
    >>> inputs, targets = np.array([1000, 999, 11, 12, 998, 15]), np.array([999, 10, 998, 13, 14])
    >>> restore(inputs, targets, np.array([1000]), True, vocab).tolist()
    [10, 11, 12, 13, 14, 15]

    Args:
      inputs, targets: 1-D ids without EOS.
      prefix: the mode tokens the inputs start with.
      sentinels: whether noise spans are marked; otherwise the targets follow the inputs.
      vocab: the reserved ids.

    Raises:
      ValueError: if the two sides do not belong together.
    """
    if not np.array_equal(inputs[: prefix.size], prefix):
        raise ValueError(
            f"Inputs start with {inputs[: prefix.size].tolist()}, not with the mode tokens "
            f"{prefix.tolist()} of this denoiser."
        )
    inputs = inputs[prefix.size :]
    if not sentinels:
        return np.concatenate([inputs, targets])
    pieces, read, written = [], 0, 0
    # What would be the next sentinel of a larger vocabulary is no text after the last of this one.
    beyond = -1 if vocab.sentinel_ids else vocab.vocab_size - 1 - vocab.num_sentinels
    marks = itertools.pairwise([*vocab.sentinels.tolist(), beyond])
    for k, (sentinel, following) in enumerate(marks):
        if written == targets.size:
            break
        mark = read + int(np.argmax(inputs[read:] == sentinel)) if read < inputs.size else read
        if mark == inputs.size or inputs[mark] != sentinel or targets[written] != sentinel:
            raise ValueError(f"Sentinel {k} (id {sentinel}) is not where it should be.")
        ends = np.flatnonzero(targets[written:] == following)
        end = written + int(ends[0]) if ends.size else targets.size
        pieces += [inputs[read:mark], targets[written + 1 : end]]
        read, written = mark + 1, end
    if written != targets.size:
        raise ValueError(
            f"Targets hold {targets.size - written} tokens after the last of the vocabulary's "
            f"{vocab.num_sentinels} sentinels; was this made with another vocabulary?"
        )
    return np.concatenate([*pieces, inputs[read:]])
