"""Which pending draw goes next into a row, how long it becomes, and where segments end up.

A row has room on two sides (encoder inputs and decoder targets; a one-sided layout leaves the
second at zero). What waits is a window of W draws per row. A draw from running text has no tokens
yet, so its raw length may be chosen when it is placed, anywhere between two bounds; its costs are
known at the bounds and taken as linear between them. A fixed example has equal bounds. No row
looks at another, so the way rows are split over hosts and workers cannot change what is chosen.

Real positions, in % of encoder / decoder, for UL2's seven denoisers at equal rates with their mode
tokens, window 32, raw segments of 256 to 512 tokens (`tests/feed/test_fill.py` holds the floor):

    lengths     balanced      greedy
    512/256     98.8 / 98.9
    1024/512    96.2 / 95.8   79.1 / 77.2
    1024/576    97.4 / 88.7
    2048/1024   99.6 / 97.8   86.9 / 84.9
    512/512     one segment per row, as T5X: 96.4 / 54.8

Take inputs : targets = 2 : 1; 1024/512 is the default pair of this mixture.

Axis legend: R rows, W pending draws of a row, P pairs of them, N segments of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ul2tune.data.ragged import offsets_of

NO_SLOT = -1
_INFEASIBLE = 1e9
# A row is thought to need one segment more only where it would miss by this share of a segment.
_SLACK_SEGMENTS = 0.1
# Every draw is tried in a pair with this many others: trying all costs four times as much for
# 0.3 % of fill.
_NEIGHBOURS = 4
# Fraction of a side that a draw may waste per window of draws it has waited for. Without it the
# window fills up with what fits badly: fill falls (1024/512: 95.0 instead of 95.9 % of the
# encoder) and the rates are held back. With more of it the window, which a run's first segments
# lack, is less one-sided, but not by enough for what it costs: at 0.3 "t5gemma2" (1024/512) is 16
# instead of 18 points off its rates after 8 batches, and UL2 loses 0.6 and 1.3 points of fill; at
# 1.0 it is 10 points, and UL2 loses 1.3 and 3.2.
_AGING = 0.1


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Tokens on the two sides at the shortest and at the longest raw length, float64 [R, W]."""

    inputs_low: np.ndarray
    inputs_high: np.ndarray
    targets_low: np.ndarray
    targets_high: np.ndarray

    def take(self, index) -> Costs:
        """The same costs at an index of the arrays."""
        return Costs(
            inputs_low=self.inputs_low[index],
            inputs_high=self.inputs_high[index],
            targets_low=self.targets_low[index],
            targets_high=self.targets_high[index],
        )

    def at(self, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets) at a share in [0, 1] of the way from the shortest to the longest."""
        inputs = self.inputs_low + share * (self.inputs_high - self.inputs_low)
        targets = self.targets_low + share * (self.targets_high - self.targets_low)
        return inputs, targets


@dataclass(frozen=True, kw_only=True)
class Room:
    """What is left in each row, float64 [R], and 1 / length of the sides (0: no such side)."""

    inputs: np.ndarray
    targets: np.ndarray
    inputs_weight: float
    targets_weight: float

    def take(self, rows: np.ndarray) -> Room:
        """The room of some of the rows."""
        return Room(
            inputs=self.inputs[rows],
            targets=self.targets[rows],
            inputs_weight=self.inputs_weight,
            targets_weight=self.targets_weight,
        )

    def wasted(self, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Sum over sides of the fraction of a row that stays free after placing costs [R, …]."""
        return (self.inputs[:, None] - inputs) * self.inputs_weight + (
            self.targets[:, None] - targets
        ) * self.targets_weight


@dataclass(frozen=True, kw_only=True)
class Window:
    """The draws waiting in each row.

    Attributes:
      costs: [R, W] each.
      age: int64 [R, W], the draws' counters: the smallest is the oldest; negative = empty slot.
      first: bool [R], rows in which nothing is placed yet.
    """

    costs: Costs
    age: np.ndarray
    first: np.ndarray

    def take(self, rows: np.ndarray) -> Window:
        """The windows of some of the rows."""
        return Window(costs=self.costs.take(rows), age=self.age[rows], first=self.first[rows])

    def oldest(self) -> np.ndarray:
        """int64 [R] slot of the oldest draw."""
        return np.where(self.age < 0, np.iinfo(np.int64).max, self.age).argmin(axis=1)

    def penalty(self) -> np.ndarray:
        """float64 [R, W]: what younger draws must gain in fill to go before older ones."""
        valid = self.age >= 0
        oldest = np.where(valid, self.age, np.iinfo(np.int64).max).min(axis=1, keepdims=True)
        return np.where(valid, (self.age - oldest) * (_AGING / self.age.shape[1]), _INFEASIBLE)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What each row does next.

    Attributes:
      slot: the draw to place, int64 [R]; `NO_SLOT` closes the row.
      share: where its raw length lies between its bounds, float64 [R] in [0, 1].
    """

    slot: np.ndarray
    share: np.ndarray


def longest_share(costs: Costs, inputs_room: np.ndarray, targets_room: np.ndarray) -> np.ndarray:
    """The largest share in [0, 1] that fits both sides; negative where not even 0 does."""
    share = np.minimum(
        _ratio(inputs_room - costs.inputs_low, costs.inputs_high - costs.inputs_low),
        _ratio(targets_room - costs.targets_low, costs.targets_high - costs.targets_low),
    )
    return np.minimum(share, 1.0)


def _ratio(spare, slope):
    # Short of room: negative. A flat side (fixed examples) with room: no limit.
    limit = np.where(slope > 1e-9, spare / np.maximum(slope, 1e-9), np.inf)
    return np.where(spare < 0, -1.0, limit)


def choose_greedy(window: Window, room: Room) -> Choice:
    """Arrival order, as SeqIO packs: the oldest draw, and a row closes where that does not fit."""
    rows, slot = np.arange(len(window.age)), window.oldest()
    share = longest_share(window.costs.take((rows, slot)), room.inputs, room.targets)
    feasible = (share >= 0) & (window.age[rows, slot] >= 0)
    return Choice(slot=np.where(feasible, slot, NO_SLOT), share=np.clip(share, 0.0, 1.0))


def choose_balanced(window: Window, room: Room) -> Choice:
    """Fills both sides together.

    While a row has room for three segments or more, it takes the draw after which the free
    fractions of its sides are most alike, at an even share of the room. The last two segments are
    chosen as a pair, with the two raw lengths that solve "both sides exactly full" (a 2x2 linear
    system, clipped to the bounds), and least waste wins. An empty row starts with its oldest draw
    and older draws may waste a little more, so no draw waits for ever and the recipe's rates
    hold in the long run. The window itself is not at these rates: it fills with what fits worst,
    which a row's first segments therefore lack, by less than a window.
    """
    fits_RW = longest_share(window.costs, room.inputs[:, None], room.targets[:, None])
    fits_RW = np.where(window.age >= 0, fits_RW, -1.0)
    only_oldest = np.arange(window.age.shape[1]) == window.oldest()[:, None]
    fits_RW = np.where(window.first[:, None] & ~only_oldest, -1.0, fits_RW)
    left_R = _segments_left(window, room)
    slot, share = _most_even(window, fits_RW, room, left_R)
    last = np.flatnonzero(left_R <= 1)
    if last.size:
        slot[last], share[last], _ = _least_waste(window.take(last), fits_RW[last], room.take(last))
    two = np.flatnonzero(left_R == 2)
    if two.size:
        slot[two], share[two] = _best_pair(window.take(two), fits_RW[two], room.take(two))
    feasible = fits_RW.max(axis=1) >= 0
    return Choice(slot=np.where(feasible, slot, NO_SLOT), share=np.clip(share, 0.0, 1.0))


def _segments_left(window, room):
    """How many segments of the window's mean full cost a row still takes, float64 [R]."""
    valid = window.age >= 0
    full = np.where(valid, window.costs.inputs_high + window.costs.targets_high, 0.0).sum(axis=1)
    mean = full / np.maximum(valid.sum(axis=1), 1)
    return np.ceil((room.inputs + room.targets) / np.maximum(mean, 1.0) - _SLACK_SEGMENTS)


def _most_even(window, fits_RW, room, left_R):
    costs = window.costs
    low = costs.inputs_low + costs.targets_low
    high = costs.inputs_high + costs.targets_high
    even = (room.inputs + room.targets) / np.maximum(left_R, 1.0)
    share = (even[:, None] - low) / np.maximum(high - low, 1e-9)
    share = np.clip(share, 0.0, np.maximum(fits_RW, 0.0))
    inputs, targets = costs.at(share)
    inputs_free = (room.inputs[:, None] - inputs) * room.inputs_weight
    targets_free = (room.targets[:, None] - targets) * room.targets_weight
    score = np.abs(inputs_free - targets_free) + window.penalty()
    slot = np.where(fits_RW >= 0, score, _INFEASIBLE).argmin(axis=1)
    return slot, share[np.arange(len(slot)), slot]


def _least_waste(window, fits_RW, room):
    waste = room.wasted(*window.costs.at(fits_RW)) + window.penalty()
    waste = np.where(fits_RW >= 0, waste, _INFEASIBLE)
    rows, slot = np.arange(len(waste)), waste.argmin(axis=1)
    return slot, fits_RW[rows, slot], waste[rows, slot]


def _best_pair(window, fits_RW, room):
    """Of some pairs of draws the one that leaves least free, or a single draw that leaves less."""
    rows_R1 = np.arange(len(window.age))[:, None]
    one, two = _pairs(window)
    a, b = window.costs.take((rows_R1, one)), window.costs.take((rows_R1, two))
    share_a = _solve(a, b, room.inputs[:, None], room.targets[:, None])
    inputs, targets = a.at(share_a)
    share_b = longest_share(b, room.inputs[:, None] - inputs, room.targets[:, None] - targets)
    b_inputs, b_targets = b.at(share_b)
    penalty = window.penalty()
    waste = room.wasted(inputs + b_inputs, targets + b_targets)
    waste += penalty[rows_R1, one] + penalty[rows_R1, two]
    waste = np.where((share_b >= 0) & (one != two), waste, _INFEASIBLE)
    rows, pair = np.arange(len(waste)), waste.argmin(axis=1)
    single, single_share, single_waste = _least_waste(window, fits_RW, room)
    use_pair = waste[rows, pair] < single_waste
    return (
        np.where(use_pair, one[rows, pair], single),
        np.where(use_pair, share_a[rows, pair], single_share),
    )


def _pairs(window):
    """Pairs of slots to try, two int64 [R, P]; the first of a pair is placed now.

    In an empty row the oldest draw with every other, else every slot with the few slots after it.
    """
    num_rows, width = window.age.shape
    slots = np.arange(width)
    steps = np.arange(1, min(_NEIGHBOURS, max(width - 1, 1)) + 1)
    one = np.tile(np.repeat(slots, len(steps)), (num_rows, 1))
    two = np.tile(((slots[:, None] + steps) % width).reshape(-1), (num_rows, 1))
    one[window.first] = window.oldest()[window.first, None]
    two[window.first] = np.resize(slots, two.shape[1])
    return one, two


def _solve(a, b, inputs_room, targets_room):
    """Shares of `a`, [R, P], with which `a` and `b` fill both sides; `b` keeps its least room."""
    a_in, a_tg = a.inputs_high - a.inputs_low, a.targets_high - a.targets_low
    b_in, b_tg = b.inputs_high - b.inputs_low, b.targets_high - b.targets_low
    spare_in = inputs_room - a.inputs_low - b.inputs_low
    spare_tg = targets_room - a.targets_low - b.targets_low
    determinant = a_in * b_tg - a_tg * b_in
    singular = np.abs(determinant) < 1e-6
    determinant = np.where(singular, 1.0, determinant)
    # No single solution (equal slopes, fixed examples, one side): both as long as they fit
    # together.
    together = np.minimum(_ratio(spare_in, a_in + b_in), _ratio(spare_tg, a_tg + b_tg))
    exact_a = np.where(singular, together, (spare_in * b_tg - spare_tg * b_in) / determinant)
    exact_b = np.where(singular, together, (a_in * spare_tg - a_tg * spare_in) / determinant)
    share_b = np.clip(exact_b, 0.0, 1.0)
    # Where b leaves its bounds, the side that is fuller then decides a's.
    limit = np.minimum(
        _ratio(spare_in - share_b * b_in, a_in), _ratio(spare_tg - share_b * b_tg, a_tg)
    )
    outside = (exact_b != share_b) | (exact_a > limit)
    return np.clip(np.where(outside, limit, exact_a), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the N segments of a batch go.

    Attributes:
      row: int64 [N], not decreasing.
      segment: int64 [N], 1, 2, … within each row.
      num_rows: rows of the batch; rows nobody names stay padding.
    """

    row: np.ndarray
    segment: np.ndarray
    num_rows: int

    def starts(self, lengths_N: np.ndarray) -> np.ndarray:
        """int64 [N] column of each segment's first token; rows are filled from the left."""
        offsets = offsets_of(lengths_N)[:-1]
        first = np.flatnonzero(self.segment == 1)
        return offsets - np.repeat(offsets[first], np.diff(first, append=len(self.row)))


def place(row_N: np.ndarray, num_rows: int) -> Placement:
    """Numbers segments that are sorted by row.

    >>> place(np.array([0, 0, 2]), num_rows=3).segment
    array([1, 2, 1])
    """
    row = np.asarray(row_N, np.int64)
    assert np.all(np.diff(row) >= 0), "segments must be sorted by row"
    index = np.arange(row.size)
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    return Placement(
        row=row,
        segment=index - np.repeat(starts, np.diff(starts, append=row.size)) + 1,
        num_rows=num_rows,
    )


def in_order(lengths_NC: np.ndarray, capacity_C: tuple[int, ...]) -> Placement:
    """SeqIO's packing: arrival order, a new row where any side is full.

    SeqIO packs ``max(capacity)`` examples at a time, and a row ends where they do:

    >>> in_order(np.array([[2], [1], [2], [1]]), (3,)).row
    array([0, 0, 1, 2])

    Args:
      lengths_NC: tokens of each example, on each side.
      capacity_C: a row's length on each side.

    Raises:
      ValueError: if an example is longer than a row.
    """
    row, used, rows = -1, np.zeros(len(capacity_C), np.int64), []
    for number, lengths in enumerate(np.asarray(lengths_NC)):
        if np.any(lengths > capacity_C):
            raise ValueError(f"An example of lengths {lengths.tolist()} does not fit {capacity_C}.")
        if number % max(capacity_C) == 0 or np.any(used + lengths > capacity_C):
            row, used = row + 1, np.zeros_like(used)
        used = used + lengths
        rows.append(row)
    return place(np.array(rows, np.int64), num_rows=row + 1)
