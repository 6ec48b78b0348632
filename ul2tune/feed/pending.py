"""The draws that wait in each row: which task, which denoiser, how long they may become.

A draw is a number of its row's counter. Task and noise follow from `fold_in(seed, row, counter)`; a
fixed example also has its ordinal. That is all the state there is: the rest is recomputed.

Axis legend: R rows, W slots per row, N draws dealt with at once, K raw lengths tried.
"""

from __future__ import annotations

import numpy as np

from ul2tune.data.packing import Costs, Room, Window
from ul2tune.feed import draws
from ul2tune.feed.checks import longest_in_row
from ul2tune.feed.documents import Documents
from ul2tune.feed.sources import Example, Sources

EMPTY = -1
# Raw lengths tried around the one the linear costs suggest: sentinels come in whole numbers.
_TRIED = np.array([2, 1, 0, -1, -2, -3, -5, -8])


class Pending:
    """Window of draws of some rows.

    Args:
      sources: the tasks.
      rows: ids of the rows.
      documents: their running text.
    """

    def __init__(self, sources: Sources, rows: np.ndarray, documents: Documents):
        config = sources.config
        width = config.window if config.packing == "balanced" else 1
        shape = (len(rows), width)
        self._sources, self._documents = sources, documents
        self._row_keys = draws.row_keys(config.seed, rows)
        self.counter = np.full(shape, EMPTY, np.int64)
        self.task = np.full(shape, EMPTY, np.int64)
        self.ordinal = np.full(shape, EMPTY, np.int64)
        self.denoiser = np.zeros(shape, np.int64)
        self.key = np.zeros(shape, np.uint64)
        self.example = np.full(shape, None, object)
        self.raw_low = np.zeros(shape, np.int64)
        self.raw_high = np.zeros(shape, np.int64)
        self._costs = Costs(
            inputs_low=np.zeros(shape),
            inputs_high=np.zeros(shape),
            targets_low=np.zeros(shape),
            targets_high=np.zeros(shape),
        )
        self._longest, self._most = None, config.max_segment_tokens
        if config.packing == "none":
            self._longest = [np.zeros(len(noise.names), np.int64) for noise in sources.noises]
            for noise, longest in zip(sources.noises, self._longest, strict=True):
                for number in noise.config.drawn:
                    longest[number] = longest_in_row(noise, number, config)
            self._most = max((int(longest.max()) for longest in self._longest), default=0)

    def task_keys(self, rows: np.ndarray, counters: np.ndarray) -> np.ndarray:
        """uint64 [N] key from which a draw's task is drawn."""
        return draws.task_keys(self._row_keys[rows], counters)

    def window(self, rows: np.ndarray, first: np.ndarray) -> Window:
        """The draws of some rows as the packing policies see them."""
        return Window(costs=self._costs.take(rows), age=self.counter[rows], first=first)

    def fit(self, at: tuple[np.ndarray, np.ndarray], share: np.ndarray, room: Room):
        """The exact length each draw gets when it is placed now.

        Args:
          at: rows and slots, [N] each, that fit at their shortest.
          share: [N] in [0, 1] between the shortest and the longest, by linear costs.
          room: of the N rows.

        Returns:
          (raw_N, inputs_N, targets_N): int64 raw tokens, and tokens on the two sides of the row.
        """
        low_N, high_N = self.raw_low[at], self.raw_high[at]
        costs = self._costs.take(at)
        raw_N, inputs_N, targets_N = low_N.copy(), costs.inputs_low, costs.targets_low
        guess_N = low_N + np.floor(share * (high_N - low_N)).astype(np.int64)
        raw_NK = np.clip(guess_N[:, None] + _TRIED, low_N[:, None], high_N[:, None])
        noise_N = self._sources.noise_of[self.task[at]]
        for number, noise in enumerate(self._sources.noises):
            mine = np.flatnonzero((noise_N == number) & (low_N < high_N))
            if not mine.size:
                continue
            denoiser, key = (
                np.repeat(column[at[0][mine], at[1][mine]], len(_TRIED))
                for column in (self.denoiser, self.key)
            )
            sides = self.sides(*noise.lengths(denoiser, raw_NK[mine].reshape(-1), key))
            inputs_NK, targets_NK = (side.reshape(-1, len(_TRIED)) for side in sides)
            fits_NK = (inputs_NK <= room.inputs[mine, None]) & (
                targets_NK <= room.targets[mine, None]
            )
            best = fits_NK.argmax(axis=1)  # the longest comes first
            chosen = np.flatnonzero(fits_NK.any(axis=1))
            to, pick = mine[chosen], (chosen, best[chosen])
            raw_N[to] = raw_NK[to, best[chosen]]
            inputs_N[to], targets_N[to] = inputs_NK[pick], targets_NK[pick]
        return raw_N, inputs_N.astype(np.int64), targets_N.astype(np.int64)

    def clear(self, rows: np.ndarray, slots: np.ndarray) -> None:
        """Empties some slots."""
        self.counter[rows, slots] = self.task[rows, slots] = self.ordinal[rows, slots] = EMPTY
        self.example[rows, slots] = None

    def admit(self, at: tuple[np.ndarray, np.ndarray], counter, task, ordinal) -> None:
        """Puts draws into slots and finds out what they cost.

        Args:
          at: rows and slots, [N] each.
          counter, task, ordinal: [N]; the ordinal of fixed examples, `EMPTY` for running text.
        """
        rows, slots = at
        self.counter[at], self.task[at], self.ordinal[at] = counter, task, ordinal
        self.key[at] = draws.noise_keys(self._row_keys[rows], counter)
        noise_N = self._sources.noise_of[task]
        for number, noise in enumerate(self._sources.noises):
            mine = (rows[noise_N == number], slots[noise_N == number])
            if mine[0].size:
                self.denoiser[mine] = noise.draw(self.key[mine])
        fixed = np.flatnonzero(noise_N < 0)
        if fixed.size:
            self._admit_examples((rows[fixed], slots[fixed]))
        text = np.flatnonzero(noise_N >= 0)
        if text.size:
            self.measure((rows[text], slots[text]))

    def measure(self, at: tuple[np.ndarray, np.ndarray]) -> None:
        """Bounds and costs of draws of running text, from the text that is there."""
        rows, _ = at
        config, tasks = self._sources.config, self.task[at]
        noise_N, denoiser_N = self._sources.noise_of[tasks], self.denoiser[at]
        if self._longest is None:
            longest_N = np.full(len(rows), config.max_segment_tokens)
        else:
            longest_N = np.array([self._longest[n][d] for n, d in zip(noise_N, denoiser_N)])
        # Looks ahead for twice the longest segment, so that text about to end is cut evenly in two.
        # A row with little room still takes less, down to the shortest, and may leave a crumb. If
        # draws took all that is left instead, there would be none, but with documents of 250 to 520
        # tokens the fill of 1024/512 would fall from 93 and 94 % to 84 and 88 %, and not every row
        # has room for them.
        wanted = 2 * self._most
        found_N = self._documents.available(rows, tasks, wanted)
        pieces_N = np.maximum(-(-found_N // longest_N), 1)
        ends_N = (found_N < wanted) | (not config.cross_documents)
        even_N = np.where(ends_N, -(-found_N // pieces_N), found_N)
        high_N = np.minimum(longest_N, even_N)
        low_N = (
            high_N if self._longest is not None else np.minimum(config.min_segment_tokens, high_N)
        )
        self.raw_low[at], self.raw_high[at] = low_N, high_N
        for number in np.unique(noise_N):
            mine = np.flatnonzero(noise_N == number)
            self._price((at[0][mine], at[1][mine]), self._sources.noises[number])

    def _price(self, at, noise) -> None:
        """Exact lengths at both bounds, in one call."""
        denoiser, key = np.tile(self.denoiser[at], 2), np.tile(self.key[at], 2)
        raw = np.concatenate([self.raw_low[at], self.raw_high[at]])
        inputs, targets = self.sides(*noise.lengths(denoiser, raw, key))
        half = len(raw) // 2
        self._costs.inputs_low[at], self._costs.inputs_high[at] = inputs[:half], inputs[half:]
        self._costs.targets_low[at], self._costs.targets_high[at] = targets[:half], targets[half:]

    def _admit_examples(self, at) -> None:
        tasks = self.task[at]
        index = self._sources.document_index(tasks, self.ordinal[at])
        for task in np.unique(tasks):
            mine = np.flatnonzero(tasks == task)
            found = self._sources.examples(int(task), index[mine])
            for i, example in zip(mine, found, strict=True):
                self._admit_example((at[0][i], at[1][i]), example)

    def _admit_example(self, at, example: Example) -> None:
        inputs, targets = self.sides(example.inputs.size, example.targets.size)
        self.example[at], self.denoiser[at] = example, 0
        self.raw_low[at] = self.raw_high[at] = example.raw_tokens
        self._costs.inputs_low[at] = self._costs.inputs_high[at] = inputs
        self._costs.targets_low[at] = self._costs.targets_high[at] = targets

    def sides(self, inputs, targets):
        """Tokens on the two sides of a row: a one-sided row holds both on its first."""
        if self._sources.config.two_sided:
            return inputs, targets
        return inputs + targets, targets * 0
