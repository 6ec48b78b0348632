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
    found = Draws(sources, np.arange(5), 0, np.zeros(3, np.int64)).at(rows, counters)
    assert list(zip(*(column.tolist() for column in found))) == list(expected.values())


def test_they_go_on_from_any_block(sources):
    start = Draws(sources, np.arange(5), 0, np.zeros(3, np.int64))
    for counter in (0, BLOCK - 1, BLOCK, 3 * BLOCK + 5):
        counters, rows = np.full(5, counter), np.arange(5)
        (before,) = np.unique(start.before(counters), axis=0)
        again = Draws(sources, np.arange(5), counter, before)
        for later in (0, 1, BLOCK, 2 * BLOCK):
            for one, other in zip(
                start.at(rows, counters + later), again.at(rows, counters + later)
            ):
                np.testing.assert_array_equal(one, other)


def test_what_is_forgotten_changes_nothing_later(sources):
    whole, short = (Draws(sources, np.arange(5), 0, np.zeros(3, np.int64)) for _ in range(2))
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


SHORT = {"feature_lengths": {"inputs": 128, "targets": 64}, "num_epochs": None}


@pytest.mark.parametrize("packing", ["greedy", "balanced"])
def test_packed_rows_have_shown_all_draws_but_those_that_wait(folder, packing):
    seen, waiting, size = Counter(), Counter(), 6
    with Feed(config_of(folder, batch_size=size, packing=packing, **SHORT)) as feed:
        for _ in range(50):
            segments = prepared.unpack(next(feed), feed.source_names)
            seen.update((segment.source, int(segment.inputs[0])) for segment in segments)
        state, sources = feed.get_state(), Sources(feed.config)
        names = feed.source_names
    counters = np.concatenate([np.arange(n) for n in state["counter"]])
    assert len(counters) > 2 * BLOCK * size, "several blocks"
    rows = np.repeat(np.arange(size), state["counter"])
    start = Draws(sources, np.arange(size), 0, np.zeros(3, np.int64))
    drawn = count(sources, names, *start.at(rows, counters))
    slots = state["pending_task"] >= 0
    waiting = count(sources, names, state["pending_task"][slots], state["pending_ordinal"][slots])
    assert seen + waiting == drawn


def count(sources, names, tasks, ordinals):
    firsts = 3 + sources.document_index(tasks, ordinals)
    return Counter(zip((names[task] for task in tasks.tolist()), firsts.tolist()))


@pytest.mark.parametrize("packing", ["greedy", "balanced", "none"])
def test_some_rows_go_on_from_any_block(folder, packing):
    config = config_of(folder, batch_size=6, packing=packing, **SHORT)
    number = 150 if packing == "none" else 40
    with Feed(config) as feed:
        states, batches = [], []
        for _ in range(number):
            states.append(feed.get_state())
            batches.append(next(feed))
    assert states[-1]["counter"].min() > 2 * BLOCK
    for rows in ([5], [4, 3], [2, 5, 0]):
        for at in (1, number // 2, number - 3):
            with Feed(config, rows=rows) as feed:
                feed.set_state(states[at])
                for later in range(at, min(at + 10, number)):
                    for name, values in next(feed).items():
                        np.testing.assert_array_equal(values, batches[later][name][rows])


def test_no_two_draws_share_a_key():
    """Neither those of two rows or counters, nor a draw's task and its noise: the same text gets
    other noise elsewhere, and which task a draw is says nothing of its denoiser."""
    rows = draws.row_keys(3, np.arange(64))[:, None]
    keys = [of(rows, np.arange(500)) for of in (draws.task_keys, draws.noise_keys)]
    assert np.unique(keys).size == 2 * 64 * 500
