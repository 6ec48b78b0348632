"""What is refused before a run begins: places that cannot be used, and data that the model cannot
read."""

from __future__ import annotations

from pathlib import Path

from ul2tune.data.embedding_rows import check_embedding_rows
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.feed import Feed
from ul2tune.models.base import ModelConfig
from ul2tune.training import lock
from ul2tune.types import InitFn


def check_places(model_dir: Path, init: InitFn | None) -> None:
    """Whether MODEL_DIR can be written to and is nobody else's, and `init` finds what it reads.

    Called before data is prepared, which may take hours. Uses no device, and may be called in one
    process alone.

    Args:
      model_dir: of the run; made for a moment if need be.
      init: source of initial parameters of a run that begins.

    Raises:
      ValueError, OSError: if not, naming the place.
    """
    check_source = getattr(init, "check_source", None)
    if check_source is not None:
        check_source()
    with lock.exclusive(model_dir):
        pass


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


def check_ids(model: ModelConfig, feed: Feed) -> None:
    """Refuses ids that the model has no row for: a lookup would take the last row for them, and
    losses would look better, not broken.

    Raises:
      ValueError: naming the vocabulary, or what brings an id that is not the vocabulary's.
    """
    num_rows, mixture = model.vocab_size, feed.config.mixture
    check_embedding_rows(mixture, feed.vocabulary.size, num_rows)
    for place, largest in feed.largest_ids.items():
        if largest >= num_rows:
            raise ValueError(
                f"{place} of {mixture!r} has id {largest}, but the model has rows for 0 to "
                f"{num_rows - 1} only. Set its vocab_size to at least {largest + 1}, or correct "
                f"the id in the task and prepare again."
            )
