"""The training feed: prepared data in, packed batches out, at any position.

    config = FeedConfig(mixture="ul2_stdlib", data_dir="data", batch_size=64,
                        feature_lengths={"inputs": 1024, "targets": 512})
    with Feed(config, rows=my_rows) as feed:
        batch = next(feed)            # {"encoder_input_tokens": int32 [rows, 1024], …}
        position = feed.get_state()   # give it to set_state() to go on from here, on any topology

The batch at step `n` is a function of (prepared data, configuration, seed, n). No TensorFlow, no
JAX.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ul2tune.data.vocab import Vocabulary
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.producers import (
    DirectProducer,
    Item,
    ProcessProducer,
    Producer,
    ThreadProducer,
)
from ul2tune.feed.sources import Sources
from ul2tune.feed.stats import Counts
from ul2tune.feed.streams import RowStreams, fingerprint

__all__ = ["Feed", "FeedConfig", "eval_batches"]


class Feed(Iterator[dict[str, np.ndarray]]):
    """Batches of some rows of the global batch.

    Args:
      config: what to feed.
      rows: ids of the rows this process needs, in [0, batch_size); None: all. Batches hold them in
        this order.

    Raises:
      FileNotFoundError: if the mixture is not prepared.
      ValueError: if what is prepared is damaged, inconsistent or does not fit the configuration.
    """

    def __init__(self, config: FeedConfig, rows: Sequence[int] | None = None):
        self.config = config
        self.rows = np.arange(config.batch_size) if rows is None else np.asarray(rows, np.int64)
        if self.rows.ndim != 1 or not self.rows.size:
            raise ValueError(f"Feed rows are {self.rows.tolist()}: name at least one row.")
        if self.rows.min() < 0 or self.rows.max() >= config.batch_size:
            raise ValueError(
                f"Feed rows {self.rows.min()}…{self.rows.max()} are not all in the global batch of "
                f"{config.batch_size} rows (BATCH_SIZE)."
            )
        if np.unique(self.rows).size != self.rows.size:
            raise ValueError(f"Feed rows {self.rows.tolist()} repeat a row: name each one once.")
        self._sources = Sources(config)
        self._producer: Producer | None = None
        self._closed = False
        self._state: dict[str, np.ndarray] | None = None
        self._ahead: Item | Exception | None = None  # made, and not handed out yet
        self._counts = Counts.zero(len(self.source_names))

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the source ids 1, 2, … in `decoder_source_ids`."""
        return self._sources.names

    @property
    def source_rates(self) -> tuple[float, ...]:
        """The share of all draws that each of `source_names` is meant to get."""
        return tuple(self._sources.source_rates.tolist())

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of all tasks."""
        return self._sources.vocabulary

    @property
    def largest_ids(self) -> dict[str, int]:
        """The largest token ids that batches can hold, whatever the vocabulary says, by their
        origin: those of prepared features, where the manifest states them, and those of modes."""
        found: dict[str, int] = {}
        for task in self._sources.tasks:
            for name in (task.text_feature,) if task.noise else ("inputs", "targets"):
                if "max_id" in (facts := task.manifest.features.get(name, {})):
                    found[f"Feature {name!r} of task {task.name!r}"] = facts["max_id"]
        for noise in self._sources.noises:
            for mode, ids in noise.mode_ids.items():
                place = f"Mode {mode!r}"  # of several tasks, each with ids of its own
                found[place] = max(found.get(place, 0), *ids)
        return found

    @property
    def fingerprints(self) -> dict[str, Any]:
        """By task, all that its examples depend on, as JSON."""
        return self._sources.fingerprints

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch, {feature: int32 [rows, length]}.

        Raises:
          StopIteration: when a finite pass is over for all rows at hand.
        """
        ahead, self._ahead = self._ahead, None
        item = self._make() if ahead is None else ahead
        if isinstance(item, Exception):
            raise item
        if item.counts.is_padding:
            raise StopIteration
        self._state = item.state
        self._counts = self._counts + item.counts
        return item.batch

    def is_over(self) -> bool:
        """Whether no batch follows.

        Makes the next batch to find out, but does not hand it out: the position stays. An error in
        making it is raised by the next call of :meth:`__next__`.
        """
        if self.config.num_epochs is None:
            return False
        if self._ahead is None:
            try:
                self._ahead = self._make()
            except Exception as error:
                self._ahead = error
        return isinstance(self._ahead, Item) and self._ahead.counts.is_padding

    def _make(self) -> Item:
        if self._closed:
            raise ValueError("This Feed is closed.")
        if self._producer is None:
            self._producer = self._start()
        return self._producer.get()

    def get_state(self) -> dict[str, np.ndarray]:
        """Position after the last batch handed out: int64 arrays [rows, …], row ids under "row"."""
        if self._state is None:
            self._state = RowStreams(self._sources, self.rows).state()
        return {name: value.copy() for name, value in self._state.items()}

    def fits(self, state: Mapping[str, np.ndarray]) -> bool:
        """Whether a position is one of this data and configuration, so that it may be set."""
        return bool(np.all(np.asarray(state["fingerprint"]) == fingerprint(self._sources)))

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes to a position. The state may hold other rows too and in any order.

        Raises:
          ValueError: if a row is missing, or the state belongs to other data or configuration.
        """
        arrays = {name: np.asarray(value, np.int64) for name, value in state.items()}
        where = {int(row): i for i, row in enumerate(arrays["row"])}
        missing = [row for row in self.rows.tolist() if row not in where]
        if missing:
            raise ValueError(
                f"The saved data position has {len(where)} rows and none for row {missing[0]}: "
                f"this run's BATCH_SIZE is {self.config.batch_size}. Use the BATCH_SIZE it was "
                "saved with."
            )
        index = [where[row] for row in self.rows.tolist()]
        state = {name: value[index] for name, value in arrays.items()}
        # Builds the streams once, so that a wrong state fails here and not in a worker.
        if not self._stop():
            self._sources = Sources(self.config)  # a thread still reads from those there were
        RowStreams(self._sources, self.rows, state)
        self._state = state

    def stats(self) -> dict[str, float]:
        """Counts over the batches handed out by this object.

        Keys: ``fill/inputs`` and ``fill/targets`` (real positions of all; ``fill/rows`` where a row
        holds both), ``rows``, ``segments``, ``raw_tokens``, ``truncated_examples``, and
        ``segments/NAME`` and ``raw_tokens/NAME`` for every source.
        """
        return self._counts.summary(self.config.row_lengths, self.source_names)

    def close(self) -> None:
        """Stops threads and processes and closes files.

        A thread that is stuck in what it reads is left alone after some seconds, with a warning.
        """
        if not self._closed:
            self._closed = True
            if self._stop():
                self._sources.close()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _start(self) -> Producer:
        config = self.config
        if config.num_workers:
            return ProcessProducer(config, self.rows, self._state)
        if config.prefetch_batches:
            depth = config.prefetch_batches
            return ThreadProducer(self._sources, self.rows, self._state, depth)
        return DirectProducer(self._sources, self.rows, self._state)

    def _stop(self) -> bool:
        """Stops what makes the batches. False: it still reads from the sources."""
        producer, self._producer, self._ahead = self._producer, None, None
        return producer is None or producer.close()


def eval_batches(
    config: FeedConfig, rows: Sequence[int] | None = None, max_batches: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Every document once, unshuffled, as batches for validation; the last rows are padding.

    Every process makes the global batches and keeps its own rows, so all of them get the same
    number of batches however the text falls into rows. `config.shuffle`, `num_epochs` and
    `num_workers` are overridden; the noise is that of `config.seed`, the same in each pass.

    Args:
      config: as for :class:`Feed`, usually with another split.
      rows: ids of the rows this process needs; None: all.
      max_batches: stop after so many.

    Yields:
      {feature: int32 [rows, length]}; padding rows have loss weight 0 everywhere.
    """
    once = replace(config, shuffle=False, num_epochs=1, num_workers=0)
    wanted = np.arange(config.batch_size) if rows is None else np.asarray(rows, np.int64)
    with Feed(once) as feed:
        for batch in itertools.islice(feed, max_batches):
            yield {name: value[wanted] for name, value in batch.items()}
