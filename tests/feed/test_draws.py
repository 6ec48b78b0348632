"""Draws of an endless mixture: every example once before any comes again, whoever looks."""

from collections import Counter

import numpy as np
import pytest

from tests.feed import prepared
from tests.feed.test_streams import config_of
from ul2tune.data import mixing
from ul2tune.feed import draws
from ul2tune.feed.draws import BLOCK, Draws
from ul2tune.feed.feed import Feed
from ul2tune.feed.sources import Sources

SIZES, RATES = (50, 7, 120), (0.3, 0.1, 0.6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tasks = [prepared.Task(name=f"pairs{n}", examples=prepared.pairs(n, seed=n)) for n in SIZES]
    return prepared.write(tmp_path_factory.mktemp("prepared"), "mixed", tasks, rates=list(RATES))


@pytest.fixture
def sources(folder):
    return Sources(config_of(folder, batch_size=5))


def one_by_one(sources, number):
    """Task and ordinal of the first draws, as the text of `feed.draws` has it."""
    seen, expected = Counter(), {}
    for counter in range(number):
        for row in range(sources.config.batch_size):
            key = draws.task_keys(draws.row_keys(sources.config.seed, np.int64(row)), counter)
            task = int(mixing.draw_tasks(np.atleast_1d(key), sources.rates)[0])
            expected[counter, row] = (task, seen[task])
            seen[task] += 1
    return expected


def test_they_are_dealt_out_along_the_rows(sources):
    number = 2 * BLOCK + 3
    expected = one_by_one(sources, number)
    counters, rows = np.divmod(np.arange(number * 5), 5)
    found = Draws(sources, 0, np.zeros(3, np.int64)).at(rows, counters)
    assert list(zip(*(column.tolist() for column in found))) == list(expected.values())


def test_they_go_on_from_any_block(sources):
    start = Draws(sources, 0, np.zeros(3, np.int64))
    for counter in (0, BLOCK - 1, BLOCK, 3 * BLOCK + 5):
        counters, rows = np.full(5, counter), np.arange(5)
        (before,) = np.unique(start.before(counters), axis=0)
        again = Draws(sources, counter, before)
        for later in (0, 1, BLOCK, 2 * BLOCK):
            for one, other in zip(
                start.at(rows, counters + later), again.at(rows, counters + later)
            ):
                np.testing.assert_array_equal(one, other)


def test_what_is_forgotten_changes_nothing_later(sources):
    whole, short = (Draws(sources, 0, np.zeros(3, np.int64)) for _ in range(2))
    counters, rows = np.full(5, 5 * BLOCK), np.arange(5)
    short.at(rows, np.full(5, 3 * BLOCK))
    short.forget(3 * BLOCK)
    with pytest.raises(AssertionError, match="are gone"):
        short.at(rows, np.full(5, 3 * BLOCK - 1))
    for one, other in zip(whole.at(rows, counters), short.at(rows, counters)):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("batch_size", [1, 16, 64])  # more rows than a task has examples, too
def test_an_epoch_of_examples_shows_each_once_in_an_endless_mixture(folder, batch_size):
    seen = Counter()
    with Feed(config_of(folder, batch_size=batch_size, packing="none", num_epochs=None)) as feed:
        for _ in range(640 // batch_size):
            batch = next(feed)
            firsts = batch["encoder_input_tokens"][:, 0], batch["decoder_source_ids"][:, 0]
            seen.update(zip(*(column.tolist() for column in firsts)))
    for number, size in enumerate(SIZES, start=1):
        times = [seen[3 + i, number] for i in range(size)]
        assert sum(times) > size, "more than an epoch"
        assert max(times) - min(times) <= 1, f"{size} examples, seen {sorted(times)}"


def test_packed_rows_too_show_all_before_a_third_time(folder):
    seen = Counter()
    with Feed(config_of(folder, batch_size=16, packing="greedy", num_epochs=None)) as feed:
        names = feed.source_names
        while sum(seen.values()) < 2 * sum(SIZES):
            segments = prepared.unpack(next(feed), names)
            seen.update((segment.source, int(segment.inputs[0])) for segment in segments)
    for size in SIZES:
        times = [seen[f"pairs{size}", 3 + i] for i in range(size)]
        assert min(times) >= 1, f"{times.count(0)} of {size} unseen in {sum(times)} draws"
        assert max(times) <= sum(times) / size + 2
