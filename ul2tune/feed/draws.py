"""What each row draws next: a task, and which of its examples.

Draw number `counter` of row `b` is number ``counter * B + b`` of the mixture's one sequence of
draws, and a task's examples are dealt out along that sequence, epoch after epoch. So one epoch
shows every example once, as far as rows have made equally many draws and none of them waits: rows
that pack shorter examples are ahead of others, and with a window (`FeedConfig.window`) that many
draws of every row wait for a place; what they leave out meanwhile comes when it is their turn.

Every process computes the draws of all rows by itself, in blocks, and keeps those of its own rows.

Axis legend: B rows of the global batch, R rows of this process, C counters of a block, N draws,
T tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ul2tune.data import mixing, rng
from ul2tune.feed.sources import Sources

BLOCK = 64  # counters; what a state saves belongs to a block's beginning
_ROW = 1  # what the seed is folded with for a row's draws
_TASK, _NOISE = range(2)


def row_keys(seed: int, rows: np.ndarray) -> np.ndarray:
    """uint64 key of each row, which the randomness of its draws comes from."""
    return rng.fold_in(seed, _ROW, rows)


def task_keys(row_keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """uint64 keys from which draws' tasks are drawn (broadcast)."""
    return rng.fold_in(row_keys, counters, _TASK)


def noise_keys(row_keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """uint64 keys of draws' noise (broadcast)."""
    return rng.fold_in(row_keys, counters, _NOISE)


@dataclass(frozen=True)
class _Block:
    """A block's draws of some rows, and how often all rows draw each task before it and up to its
    end. A task's ordinals count its draws from 0.
    """

    before_T: np.ndarray
    after_T: np.ndarray
    task_CR: np.ndarray
    ordinal_CR: np.ndarray


class Draws:
    """The sequence of draws of an endless mixture, as far as it concerns some rows.

    Args:
      sources: the mixture.
      rows: ids of the rows.
      counter: where to begin; blocks before its own are not there.
      before_T: draws of each task before that block, as :meth:`before` gave it.
    """

    def __init__(self, sources: Sources, rows: np.ndarray, counter: int, before_T: np.ndarray):
        config = sources.config
        self._rates, self._rows = sources.rates, rows
        self._row_keys = row_keys(config.seed, np.arange(config.batch_size))
        self._blocks: dict[int, _Block] = {}
        self._add(counter // BLOCK, before_T)

    def at(self, rows_N: np.ndarray, counters_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Task and ordinal of some draws, int64 [N] each.

        Args:
          rows_N: which of the rows, as indices of `rows`.
          counters_N: how many draws each of them made before.
        """
        task_N, ordinal_N = np.empty_like(counters_N), np.empty_like(counters_N)
        block_N, within_N = np.divmod(counters_N, BLOCK)
        for number in np.unique(block_N):
            block, here = self._block(int(number)), np.flatnonzero(block_N == number)
            where = (within_N[here], rows_N[here])
            task_N[here], ordinal_N[here] = block.task_CR[where], block.ordinal_CR[where]
        return task_N, ordinal_N

    def before(self, counters_N: np.ndarray) -> np.ndarray:
        """int64 [N, T]: draws of each task before the block of each counter."""
        return np.stack([self._block(int(number)).before_T for number in counters_N // BLOCK])

    def forget(self, counter: int) -> None:
        """Drops what only smaller counters need."""
        first = counter // BLOCK
        self._blocks = {first: self._block(first)} | {
            number: block for number, block in self._blocks.items() if number > first
        }

    def _block(self, number: int) -> _Block:
        while number not in self._blocks:
            last = max(self._blocks)
            assert last < number, f"draws of block {number} are gone"
            self._add(last + 1, self._blocks[last].after_T)
        return self._blocks[number]

    def _add(self, number: int, before_T: np.ndarray) -> None:
        counters_C1 = (number * BLOCK + np.arange(BLOCK))[:, None]
        keys_CB = task_keys(self._row_keys, counters_C1)
        # One after another, with the rows of a counter side by side: the mixture's sequence.
        task_N = mixing.draw_tasks(keys_CB.reshape(-1), self._rates)
        by_task_N = np.argsort(task_N, kind="stable")
        drawn_T = np.bincount(task_N, minlength=len(self._rates))
        begin_T = np.cumsum(drawn_T) - drawn_T
        ordinal_N = np.empty_like(task_N)
        ordinal_N[by_task_N] = np.arange(task_N.size) + (before_T - begin_T)[task_N[by_task_N]]
        self._blocks[number] = _Block(
            before_T=before_T,
            after_T=before_T + drawn_T,
            task_CR=task_N.reshape(keys_CB.shape)[:, self._rows],
            ordinal_CR=ordinal_N.reshape(keys_CB.shape)[:, self._rows],
        )
