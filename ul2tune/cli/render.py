"""Batches as a person would read them: segments, their boundaries, and what carries loss.

    row 0   encoder  980 of 1,024 real    |1111111111111111111111|22222222222222222|....|
            decoder  501 of 512 real      |111111111111|22222222222222222222222|.|
      segment 1: ul2_stdlib/S, 256 inputs, 258 targets
        inputs   [S] def read_text(self): …
        targets  return the text …</s>

Axis legend: L length of one side of one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ul2tune.data.vocab import Vocabulary

# Around tokens that the model reads but is not trained on, in a row that mixes both kinds.
NO_LOSS = ("⟦", "⟧")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One document's or example's part of a row.

    Attributes:
      number: its segment id.
      source: name of the task or denoiser it came from; empty if the batch does not say.
      inputs_L: token ids the encoder reads (or the decoder, where it has no encoder).
      targets_L: token ids that are predicted.
      loss_L: whether each target carries loss.
    """

    number: int
    source: str
    inputs_L: np.ndarray
    targets_L: np.ndarray
    loss_L: np.ndarray


def segments(
    batch: Mapping[str, np.ndarray], row: int, source_names: Sequence[str]
) -> Iterator[Segment]:
    """The segments of one row in order.

    Args:
      batch: features as `ul2tune.feed.feed.Feed` yields them.
      row: which row.
      source_names: names of the source ids 1, 2, …
    """
    targets_L = batch["decoder_target_tokens"][row]
    loss_L = batch["decoder_loss_weights"][row] > 0
    target_ids_L = segment_ids(batch, "decoder", row)
    nothing = np.zeros(0, np.int32)
    two_sided = "encoder_input_tokens" in batch
    input_ids_L = segment_ids(batch, "encoder", row) if two_sided else nothing
    inputs_L = batch["encoder_input_tokens"][row] if two_sided else nothing
    sources_L = batch.get("decoder_source_ids", np.zeros_like(batch["decoder_target_tokens"]))[row]
    for number in sorted({*target_ids_L.tolist(), *input_ids_L.tolist()} - {0}):
        mine = target_ids_L == number
        source = int(sources_L[mine].max()) if mine.any() else 0
        yield Segment(
            number=number,
            source=source_names[source - 1] if source else "",
            inputs_L=inputs_L[input_ids_L == number],
            targets_L=targets_L[mine],
            loss_L=loss_L[mine],
        )


def segment_ids(batch: Mapping[str, np.ndarray], side: str, row: int) -> np.ndarray:
    """Segment ids [L] of one side; rows that are not packed are one segment up to the padding."""
    packed = batch.get(f"{side}_segment_ids")
    if packed is not None:
        return packed[row]
    name = "encoder_input_tokens" if side == "encoder" else "decoder_target_tokens"
    tokens_L = batch[name][row]
    length = int(np.flatnonzero(tokens_L).max(initial=-1)) + 1
    return (np.arange(tokens_L.size) < length).astype(np.int32)


def bar(ids_L: np.ndarray, width: int) -> str:
    """Packing as a bar: the segment's last digit where it is, ``|`` between, ``.`` at padding.

    >>> bar(np.array([1] * 8 + [2] * 4 + [0] * 4), 8)
    '|1111|22|..|'
    """
    edges = np.flatnonzero(np.diff(ids_L)) + 1
    parts = []
    for start, end in zip([0, *edges], [*edges, ids_L.size]):
        cells = max(1, round((end - start) * width / ids_L.size))
        parts.append((str(ids_L[start] % 10) if ids_L[start] else ".") * cells)
    return f"|{'|'.join(parts)}|"


def text(segment: Segment, vocabulary: Vocabulary) -> tuple[str, str]:
    """Inputs and targets in words; parts of the targets without loss stand in ⟦…⟧."""
    pieces = []
    edges = np.flatnonzero(np.diff(segment.loss_L)) + 1
    for tokens, loss in zip(
        np.split(segment.targets_L, edges), np.split(segment.loss_L, edges), strict=True
    ):
        words = spell(tokens, vocabulary)
        pieces.append(words if loss.size == 0 or loss[0] else NO_LOSS[0] + words + NO_LOSS[1])
    return spell(segment.inputs_L, vocabulary), " ".join(pieces)


def spell(tokens: np.ndarray, vocabulary: Vocabulary) -> str:
    """Token ids as text, ends of sequence shown as ``</s>``."""
    ends = np.flatnonzero(tokens == vocabulary.info.eos_id)
    parts = np.split(tokens, ends + 1)
    return "".join(
        vocabulary.decode(part)
        + ("</s>" if part.size and part[-1] == vocabulary.info.eos_id else "")
        for part in parts
    )


def shorten(words: str, width: int, lines: int = 4) -> str:
    """At most `lines` lines of `width` characters, cut in the middle; newlines are shown as ↵."""
    words = words.replace("\n", "↵")
    room = width * lines
    if len(words) > room:
        half = room // 2 - 2
        words = f"{words[:half]} … {words[-half:]}"
    return "\n".join(words[i : i + width] for i in range(0, len(words), width)) or "(nothing)"
