"""Whether the model can read the rows that it will be fed."""

from __future__ import annotations

from ul2tune.feed.config import FeedConfig
from ul2tune.models.base import ModelConfig


def check_rows(model: ModelConfig, data: FeedConfig) -> None:
    """Refuses batches that the model cannot read.

    Called before anything is written: if the first step found a mistake, after the first save, it
    would leave a checkpoint that refuses the corrected command.

    Raises:
      ValueError: for a layout that the model does not know, or rows longer than it can read.
    """
    if data.layout not in model.LAYOUTS:
        raise ValueError(
            f"FeedConfig.layout = {data.layout!r} is not for {type(model).__name__}, which reads "
            f"{' or '.join(map(repr, model.LAYOUTS))}. Set LAYOUT."
        )
    model.check_row_lengths(*data.row_lengths)
