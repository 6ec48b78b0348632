"""Prompts and targets as model features, in the layout the model was trained with.

The very functions that lay out training batches (`data.convert`) lay out these, so that a model
meets its prompts as it met its inputs. Rows are not packed; rows that nobody fills are padding.

A prompt ``7 8 5`` for a decoder-only model, to be continued, in rows of 5 + 1; and with the target
``3 1``, to be scored, in rows of 5 + 4:

    decoder_input_tokens      0 7 8 5 0 0        0 7 8 5 3 1 0 0 0
    decoder_segment_ids       1 1 1 1 0 0
    decoder_causal_attention  1 1 1 1 0 0        1 1 1 1 0 0 0 0 0     ("prefix_lm")
    decoder_loss_weights                         0 0 0 1 1 0 0 0 0

Axis legend: B batch, P prompts, S input length, L target length.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ul2tune.checkpoints import trained_layout
from ul2tune.data import convert, packing
from ul2tune.data.ragged import Ragged
from ul2tune.models.base import ModelConfig

log = logging.getLogger(__name__)
ENCODER_DECODER = "encoder_decoder"
# Stands for the unknown continuation of a prompt, at the position of its first token.
_UNKNOWN = np.zeros(1, np.int32)


def of_checkpoint(model: ModelConfig, layout: str | None, step_dir: Path) -> str | None:
    """The layout to ask a checkpoint in, for :func:`choose`; warns of one it was not trained in.

    Args:
      model: configuration of the model.
      layout: the one asked for; None = the checkpoint's, where the model can read several.
      step_dir: one step's folder.

    Returns:
      None only where none is asked for and the model has but one.

    Raises:
      ValueError: if the model cannot read it, or could read several, none is asked for, and the
        checkpoint does not say.
    """
    then = trained_layout.recorded(step_dir)
    if layout is None:
        if len(model.LAYOUTS) == 1:
            return None
        if then is None:
            raise ValueError(
                f"{step_dir} does not say in which layout it was trained (what was imported does "
                f"not). Give it: {_flags(model)}."
            )
    elif then is not None and layout != then:
        log.warning(
            "%s was trained with LAYOUT = %r; it is prompted in %r.", step_dir, then, layout
        )
    return choose(model, layout or then)


def choose(model: ModelConfig, layout: str | None) -> str:
    """The layout for a model.

    Args:
      model: configuration of the model; its `LAYOUTS` are what it can read.
      layout: the one asked for; None = the model's, if it has only one.

    Raises:
      ValueError: if the model cannot read it, or could read several and none is named.
    """
    known = model.LAYOUTS
    if layout is None and len(known) == 1:
        return known[0]
    if layout is None or layout not in known:
        raise ValueError(
            f"layout = {layout!r} is not for {type(model).__name__}: give the one it was trained "
            f"with, {_flags(model)}."
        )
    return layout


def _flags(model: ModelConfig) -> str:
    return " or ".join(f"--gin.LAYOUT={name}" for name in model.LAYOUTS)


def check_prompt(layout: str, ids: Sequence[int] | np.ndarray, what: str) -> None:
    """Refuses a prompt that cannot be continued. A decoder continues its start token.

    Args:
      layout: of the model.
      ids: of the prompt.
      what: names it, for the message.

    Raises:
      ValueError: if an encoder would read nothing.
    """
    if layout == ENCODER_DECODER and not len(ids):
        raise ValueError(
            f"{what} has no tokens, so that an encoder-decoder would read nothing. Leave it out, "
            f"or end prompts with the end of sequence (append_eos of a task, INFER_APPEND_EOS)."
        )


def check_row(model: ModelConfig, source: int, target: int, what: str) -> None:
    """Refuses a prompt that is too long for the model together with what follows.

    Args:
      model: configuration of the model.
      source: tokens of the prompt, padded.
      target: tokens of its answer at most, or of a target, padded.
      what: names the prompt, for the message.

    Raises:
      ValueError: if the row, or one of an encoder-decoder's two, is longer than the model reads.
    """
    problem = why_too_long(model, source, target)
    if problem:
        raise ValueError(
            f"{what} is padded to {source} tokens, and {target} are kept for what follows: "
            f"{problem}"
        )


def why_too_long(model: ModelConfig, source: int, target: int) -> str | None:
    """What the model says of a row with so many tokens; None = it can read it."""
    is_encoder_decoder = ENCODER_DECODER in model.LAYOUTS
    lengths = (source, target) if is_encoder_decoder else (source + target, 0)
    try:
        model.check_row_lengths(*lengths)
    except ValueError as error:
        return str(error)
    return None


def prompts(
    layout: str, inputs: Sequence[np.ndarray], num_rows: int, length: int
) -> dict[str, np.ndarray]:
    """Features of prompts to continue, int32 [B, S] each (S + 1 for a decoder-only model).

    Args:
      layout: of the model.
      inputs: ids of the prompts, at most `num_rows`.
      num_rows: B.
      length: S.
    """
    if layout == ENCODER_DECODER:
        segments = _segments(inputs, [_UNKNOWN] * len(inputs), num_rows, packed=False)
        batch = convert.encoder_decoder(segments, length, 1)
        return {"encoder_input_tokens": batch["encoder_input_tokens"]}
    # As if packed with one segment per row: segment ids tell tokens from padding.
    segments = _segments(inputs, [_UNKNOWN] * len(inputs), num_rows, packed=True)
    to_features = convert.prefix_lm if layout == "prefix_lm" else convert.causal_lm
    batch = to_features(segments, length + 1)
    needed = ("decoder_input_tokens", "decoder_segment_ids", "decoder_causal_attention")
    return {name: batch[name] for name in needed if name in batch}


def pairs(
    layout: str,
    inputs: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    num_rows: int,
    lengths: tuple[int, int],
    per_prompt: int = 1,
) -> dict[str, np.ndarray]:
    """Features of prompts with targets to score, int32; arguments as :func:`prompts`.

    `lengths` are S and L; a decoder-only model's rows have S + L tokens. With k targets
    `per_prompt` (of an encoder-decoder) rows b of equal b // k have one prompt, and the encoder's
    features hold it once: [P, S] with P = B / k, where the decoder's are [B, L].
    """
    segments = _segments(inputs, targets, num_rows, packed=False)
    if layout == ENCODER_DECODER:
        batch = convert.encoder_decoder(segments, *lengths)
        return batch | {"encoder_input_tokens": batch["encoder_input_tokens"][::per_prompt]}
    assert per_prompt == 1, "a decoder-only model reads its prompt in every row"
    to_features = convert.prefix_lm if layout == "prefix_lm" else convert.causal_lm
    return to_features(segments, sum(lengths))


def _segments(
    inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray], num_rows: int, *, packed: bool
) -> convert.Segments:
    return convert.Segments(
        inputs=Ragged.from_rows(list(inputs)),
        targets=Ragged.from_rows(list(targets)),
        placement=packing.place(np.arange(len(inputs)), num_rows),
        packed=packed,
    )
