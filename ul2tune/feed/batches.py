"""From placed draws to arrays: noise, conversion, packing, each once over a whole batch.

Axis legend: N segments of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ul2tune.data import convert, packing
from ul2tune.data.ragged import Ragged, interleave
from ul2tune.feed.sources import Sources
from ul2tune.feed.stats import Counts


@dataclass(frozen=True, kw_only=True)
class Plan:
    """N segments to make, [N] each.

    Attributes:
      row: number of the row, among the rows at hand.
      task, denoiser: where it comes from; denoiser 0 for fixed examples.
      key: of its noise.
      raw: raw tokens.
      payload: object; a list of pieces of running text, or an `Example`.
    """

    row: np.ndarray
    task: np.ndarray
    denoiser: np.ndarray
    key: np.ndarray
    raw: np.ndarray
    payload: np.ndarray

    @staticmethod
    def concatenate(plans: list[Plan]) -> Plan:
        """All segments, sorted by row and in each row in the order given."""
        columns = {
            f.name: np.concatenate([getattr(p, f.name) for p in plans]) for f in fields(Plan)
        }
        order = np.argsort(columns["row"], kind="stable")
        return Plan(**{name: column[order] for name, column in columns.items()})

    @staticmethod
    def empty() -> Plan:
        """No segments."""
        columns = {f.name: np.zeros(0, np.int64) for f in fields(Plan)}
        return Plan(**columns | {"key": np.zeros(0, np.uint64), "payload": np.zeros(0, object)})


def make_batch(sources: Sources, plan: Plan, num_rows: int) -> tuple[dict[str, np.ndarray], Counts]:
    """Model features [num_rows, length], and what they hold. Rows without segments are padding."""
    config = sources.config
    inputs, targets = make_segments(sources, plan)
    source_N = sources.first_ids[plan.task] + plan.denoiser
    segments = convert.Segments(
        inputs=inputs,
        targets=targets,
        placement=packing.place(plan.row, num_rows=num_rows),
        # Where 0 is text, segment ids tell it from padding in every row.
        packed=config.packing != "none" or sources.info.zero_is_text,
        sources=source_N,
    )
    if config.two_sided:
        batch = convert.encoder_decoder(segments, config.inputs_length, config.targets_length)
    else:
        layout = convert.prefix_lm if config.layout == "prefix_lm" else convert.causal_lm
        batch = layout(segments, config.row_lengths[0], loss_on_inputs=config.loss_on_inputs)
    num_sources = len(sources.names) + 1
    counts = Counts(
        rows=num_rows,
        inputs_tokens=inputs.values.size,
        targets_tokens=targets.values.size,
        truncated_examples=sum(getattr(p, "truncated", False) for p in plan.payload),
        segments=np.bincount(source_N, minlength=num_sources)[1:],
        raw_tokens=np.bincount(source_N, plan.raw, num_sources)[1:].astype(np.int64),
    )
    return batch, counts


def make_segments(sources: Sources, plan: Plan) -> tuple[Ragged, Ragged]:
    """Inputs and targets of all segments, in order. Running text gets its noise in one call for all
    tasks that share a configuration."""
    parts = []
    noise_N = sources.noise_of[plan.task]
    for number in np.unique(noise_N):
        mine = np.flatnonzero(noise_N == number)
        payload = plan.payload[mine]
        if number < 0:
            inputs = Ragged.from_rows([example.inputs for example in payload])
            targets = Ragged.from_rows([example.targets for example in payload])
        else:
            pieces = [piece for segment in payload for piece in segment]
            tokens = Ragged(np.concatenate(pieces), plan.raw[mine])
            noise = sources.noises[number]
            inputs, targets = noise.apply(tokens, plan.denoiser[mine], plan.key[mine])
        parts.append((mine, inputs, targets))
    inputs = interleave([(mine, inputs) for mine, inputs, _ in parts])
    return inputs, interleave([(mine, targets) for mine, _, targets in parts])
