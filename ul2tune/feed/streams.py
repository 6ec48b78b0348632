"""Row streams: row `b` of the global batch is a stream of its own.

Its state is a few integers: the counter of its draws, the draws that wait, and where it is in each
task. What it yields is a function of (prepared data, configuration, seed, row, position), so the
global batch does not depend on hosts, workers or restarts. Rows advance in lockstep only to share
NumPy's calls.

Axis legend: R rows, W pending draws, T tasks, N segments placed at once.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import numpy as np

from ul2tune.data import mixing, packing
from ul2tune.feed.batches import Plan, make_batch
from ul2tune.feed.config import POSITION_FREE_FIELDS, fields_at_default
from ul2tune.feed.documents import Documents
from ul2tune.feed.draws import Draws
from ul2tune.feed.pending import EMPTY, Pending
from ul2tune.feed.sources import Sources
from ul2tune.feed.stats import Counts

# The fields that every fingerprint in a checkpoint includes. Never add to them: a newer field
# counts only off its default, which stands for what was done before there was the field (as in
# `training.drift`).
_FIRST_FIELDS = frozenset(
    {
        "mixture",
        "batch_size",
        "split",
        "seed",
        "layout",
        "packing",
        "window",
        "min_segment_tokens",
        "max_segment_tokens",
        "cross_documents",
        "document_separator",
        "loss_on_inputs",
        "shuffle",
        "num_epochs",
        "max_examples",
    }
)


class RowStreams:
    """Some rows of the global batch.

    Args:
      sources: the mixture.
      rows: ids of the rows.
      state: where to go on, as :meth:`state` gave it for these rows; None: from the beginning.

    Raises:
      ValueError: if the state belongs to other data or another configuration.
    """

    def __init__(
        self,
        sources: Sources,
        rows: np.ndarray,
        state: Mapping[str, np.ndarray] | None = None,
    ):
        config = sources.config
        self.sources, self.rows = sources, np.asarray(rows, np.int64)
        self._fingerprint = fingerprint(sources)
        shape = (len(self.rows), len(sources.tasks))
        self._documents = Documents(sources, self.rows)
        self._pending = Pending(sources, self.rows, self._documents)
        self._batch = np.zeros(len(self.rows), np.int64)
        self._counter = np.zeros(len(self.rows), np.int64)
        # Next ordinal of each task of fixed examples, among the row's own, in a finite pass.
        self._ordinal = np.zeros(shape, np.int64)
        self._limit = None if config.num_epochs is None else sources.sizes * config.num_epochs
        self._draws = None
        if deals_together(sources):
            self._draws = Draws(sources, self.rows, 0, np.zeros(len(sources.tasks), np.int64))
        self._text_live = np.ones(shape, bool)
        if state is not None:
            self._restore(state)
        if self._limit is not None:
            rows_N, tasks_N = np.nonzero(np.broadcast_to(sources.noise_of >= 0, shape))
            self._look_for_end(rows_N, tasks_N)
        if state is None:
            for slot in range(self._pending.counter.shape[1]):
                self._refill(np.arange(len(self.rows)), np.full(len(self.rows), slot))

    def next(self) -> tuple[dict[str, np.ndarray], Counts]:
        """The next batch of these rows; rows whose finite pass is over are padding."""
        plan = self._plan()
        self._batch += 1
        if self._draws is not None:
            self._draws.forget(int(self._counter.min()))
        return make_batch(self.sources, plan, len(self.rows))

    def state(self) -> dict[str, np.ndarray]:
        """Position before the next batch: int64 arrays of fixed width, one row each."""
        text_T = self.sources.noise_of >= 0
        ordinal = self._ordinal if self._draws is None else self._draws.before(self._counter)
        return {
            "row": self.rows.copy(),
            "fingerprint": np.full(len(self.rows), self._fingerprint),
            "batch": self._batch.copy(),
            "counter": self._counter.copy(),
            "ordinal": np.where(text_T, self._documents.ordinal, ordinal),
            "offset": self._documents.offset.copy(),
            "pending_counter": self._pending.counter.copy(),
            "pending_task": self._pending.task.copy(),
            "pending_ordinal": self._pending.ordinal.copy(),
        }

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        if np.any(state["fingerprint"] != self._fingerprint):
            raise ValueError(
                "The saved data position belongs to other prepared data, another feed "
                f"configuration (mixture {self.sources.config.mixture!r}, its rates and noise, "
                "BATCH_SIZE, seed, packing, window and epochs must stay) or a version of ul2tune "
                "that dealt out examples in another order. Restore them, or start the data from "
                "the beginning in a new MODEL_DIR."
            )
        self._batch = np.array(state["batch"], np.int64)
        self._counter = np.array(state["counter"], np.int64)
        self._ordinal = np.array(state["ordinal"], np.int64)
        self._documents.go_to(self._ordinal, np.array(state["offset"], np.int64))
        if self._draws is not None:
            last = self._counter.argmin()
            before_T = self._ordinal[last].copy()
            self._draws = Draws(self.sources, self.rows, int(self._counter[last]), before_T)
        rows, slots = np.nonzero(np.asarray(state["pending_counter"]) != EMPTY)
        waiting = (rows, slots)
        self._pending.admit(
            waiting,
            np.asarray(state["pending_counter"])[waiting],
            np.asarray(state["pending_task"])[waiting],
            np.asarray(state["pending_ordinal"])[waiting],
        )

    def _plan(self) -> Plan:
        """Fills all rows: rounds in which every open row places one draw."""
        config = self.sources.config
        greedy = config.packing != "balanced"
        used = [np.zeros(len(self.rows)) for _ in config.row_lengths]
        weights = [1 / length if length else 0.0 for length in config.row_lengths]
        first, open_rows, plans = np.ones(len(self.rows), bool), np.arange(len(self.rows)), []
        while open_rows.size:
            room = packing.Room(
                inputs=config.row_lengths[0] - used[0][open_rows],
                targets=config.row_lengths[1] - used[1][open_rows],
                inputs_weight=weights[0],
                targets_weight=weights[1],
            )
            window = self._pending.window(open_rows, first[open_rows])
            choice = (packing.choose_greedy if greedy else packing.choose_balanced)(window, room)
            placed = np.flatnonzero(choice.slot != packing.NO_SLOT)
            open_rows = open_rows[placed]
            if open_rows.size:
                at = (open_rows, choice.slot[placed])
                raw, *tokens = self._pending.fit(at, choice.share[placed], room.take(placed))
                plans.append(self._place(at, raw))
                for side, more in zip(used, tokens, strict=True):
                    side[open_rows] += more
                first[open_rows] = False
            if config.packing == "none":
                break
        return Plan.concatenate(plans) if plans else Plan.empty()

    def _place(self, at: tuple[np.ndarray, np.ndarray], raw_N: np.ndarray) -> Plan:
        """Takes draws out of the window with their text, and lets new ones in."""
        rows, slots = at
        pending = self._pending
        task_N, payload = pending.task[at], pending.example[at]
        text = np.flatnonzero(self.sources.noise_of[task_N] >= 0)
        taken = self._documents.take(rows[text], task_N[text], raw_N[text])
        for i, pieces in zip(text.tolist(), taken, strict=True):
            payload[i] = pieces
        plan = Plan(
            row=rows,
            task=task_N,
            denoiser=pending.denoiser[at],
            key=pending.key[at],
            raw=raw_N,
            payload=payload,
        )
        pending.clear(rows, slots)
        if text.size and not self._documents.endless:
            self._follow_text(rows[text], task_N[text])
        self._refill(rows, slots)
        return plan

    def _refill(self, rows: np.ndarray, slots: np.ndarray) -> None:
        """Lets the next draw of each row (named once) into a slot, as long as there is one."""
        task, ordinal = self._draw(rows)
        found = np.flatnonzero(task != EMPTY)
        rows, slots, task, ordinal = rows[found], slots[found], task[found], ordinal[found]
        if not rows.size:
            return
        fixed = self.sources.noise_of[task] < 0
        counter = self._counter[rows]
        self._counter[rows] += 1
        if self._draws is None:
            self._ordinal[rows, task] += fixed
        self._pending.admit((rows, slots), counter, task, np.where(fixed, ordinal, EMPTY))

    def _draw(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The next task of each row, `EMPTY` where nothing is left, and the ordinal of its example.

        In a finite pass each row has its own share of the examples, `b, b + B, b + 2B, …`: what is
        left for a row then does not depend on the others.
        """
        if self._draws is not None:
            return self._draws.at(rows, self._counter[rows])
        live = None if self._limit is None else self._live(rows)
        keys = self._pending.task_keys(rows, self._counter[rows])
        task = mixing.draw_tasks(keys, self.sources.rates, live)
        return task, self.rows[rows] + self._ordinal[rows, task] * self._stride

    @property
    def _stride(self) -> int:
        return self.sources.config.batch_size

    def _live(self, rows: np.ndarray) -> np.ndarray:
        """bool [N, T]: which tasks of a finite pass have something left in these rows."""
        assert self._limit is not None
        next_ordinal = self.rows[rows, None] + self._ordinal[rows] * self._stride
        fixed = self.sources.noise_of < 0
        return np.where(fixed, next_ordinal < self._limit, self._text_live[rows])

    def _look_for_end(self, rows: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """Notes which rows have no running text of a task left; returns that, [N]."""
        found = self._documents.available(rows, tasks, 1)
        self._text_live[rows, tasks] = found > 0
        return found == 0

    def _follow_text(self, rows: np.ndarray, tasks: np.ndarray) -> None:
        """After text was taken: measures the draws that wait for the same text again, or drops
        those for which nothing is left."""
        ended = self._look_for_end(rows, tasks)
        same = self._pending.task[rows] == tasks[:, None]
        which, slots = np.nonzero(same & ~ended[:, None])
        if which.size:
            self._pending.measure((rows[which], slots))
        which, slots = np.nonzero(same & ended[:, None])
        if not which.size:
            return
        self._pending.clear(rows[which], slots)
        # A row can lose several slots, but takes one draw at a time: the first may use up a task.
        while which.size:
            _, once = np.unique(which, return_index=True)
            self._refill(rows[which[once]], slots[once])
            which, slots = np.delete(which, once), np.delete(slots, once)


def deals_together(sources: Sources) -> bool:
    """Whether there are examples that all rows' draws count off together, see `feed.draws`."""
    drawn = np.asarray(sources.rates) > 0
    return sources.config.num_epochs is None and bool(np.any(drawn & (sources.noise_of < 0)))


def fingerprint(sources: Sources) -> int:
    """A 63-bit number of all that the meaning of a state depends on."""
    config = dataclasses.asdict(sources.config)
    uncounted = (POSITION_FREE_FIELDS | fields_at_default(sources.config)) - _FIRST_FIELDS
    facts = {name: value for name, value in config.items() if name not in uncounted}
    facts |= {"tasks": sources.fingerprints, "rates": list(sources.rates)}
    if deals_together(sources):
        facts["draws"] = "together"  # the meaning of a state's ordinals
    return mixing.key_of(json.dumps(facts, sort_keys=True)) >> 1
