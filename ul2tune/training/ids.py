"""Whether the model has a row for every id that it will be fed."""

from __future__ import annotations

from ul2tune.data.embedding_rows import check_embedding_rows
from ul2tune.feed.feed import Feed
from ul2tune.models.base import ModelConfig


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
