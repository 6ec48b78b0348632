"""Threads, processes, their failures and their end; errors that name the value and the fix."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from tests.feed import prepared
from ul2tune.data import vocab
from ul2tune.data.ul2 import UL2Config, preset
from ul2tune.feed.feed import Feed, FeedConfig
from ul2tune.feed.sources import Sources


@pytest.fixture
def folder(tmp_path):
    tasks = [
        prepared.Task(name="texts", examples=prepared.documents(30), noise=preset("ul2")),
        prepared.Task(name="pairs", examples=prepared.pairs(20)),
    ]
    return prepared.write(tmp_path, "mixed", tasks)


def config_of(folder, mixture="mixed", **fields):
    values = {
        "mixture": mixture,
        "data_dir": str(folder),
        "feature_lengths": {"inputs": 256, "targets": 192},
        "batch_size": 6,
        "min_segment_tokens": 64,
        "max_segment_tokens": 128,
        "prefetch_batches": 1,
    }
    return FeedConfig(**values | fields)


def take(config, count, state=None):
    with Feed(config) as feed:
        if state is not None:
            feed.set_state(state)
        return [next(feed) for _ in range(count)], feed.get_state(), feed.stats()


def equal(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.mark.slow
def test_workers_and_threads_change_nothing(folder):
    config = config_of(folder)
    want, want_state, want_stats = take(replace(config, prefetch_batches=0), 5)
    _, middle, _ = take(config, 2)
    for fields in (
        {"prefetch_batches": 1},
        {"prefetch_batches": 3},
        {"num_workers": 1},
        {"num_workers": 4},
    ):
        got, state, stats = take(replace(config, **fields), 5)
        for one, two in zip(want, got, strict=True):
            equal(one, two)
        equal(want_state, state)
        assert want_stats == stats
    resumed, _, _ = take(replace(config, num_workers=3), 3, state=middle)
    for one, two in zip(want[2:], resumed, strict=True):
        equal(one, two)


@pytest.mark.slow
def test_a_finite_pass_over_workers_ends_when_all_rows_do(folder):
    config = config_of(folder, num_epochs=1)
    with (
        Feed(replace(config, prefetch_batches=0)) as one,
        Feed(replace(config, num_workers=2)) as two,
    ):
        want, got = list(one), list(two)
    assert len(want) == len(got) > 1
    for first, second in zip(want, got, strict=True):
        equal(first, second)


def test_going_back_is_allowed_at_any_time(folder):
    with Feed(config_of(folder)) as feed:
        start = feed.get_state()
        want = [next(feed) for _ in range(3)]
        feed.set_state(start)
        for batch in want:
            equal(next(feed), batch)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_reported_and_nothing_is_left_behind(folder):
    with Feed(config_of(folder, num_workers=2)) as feed:
        next(feed)
        pids = [child._process.pid for child in feed._producer._children]
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(ChildProcessError, match=r"worker for rows 3–5 died with exit code -9"):
            list(zip(range(20), feed))
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_workers_outlive_the_sigterm_that_a_scheduler_sends_to_all(folder):
    """A run that is preempted needs its data until it has saved."""
    with Feed(config_of(folder)) as alone:
        expected = [next(alone) for _ in range(30)]
    with Feed(config_of(folder, num_workers=2)) as feed:
        found = [next(feed)]
        pids = [child._process.pid for child in feed._producer._children]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        found += [next(feed) for _ in range(29)]
    for batch, same in zip(found, expected, strict=True):
        equal(batch, same)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_an_error_in_a_worker_keeps_its_type_and_message(folder):
    config = config_of(folder, num_workers=1)
    (shard,) = sorted((folder / "pairs" / "train").glob("data-00000*"))
    size = shard.stat().st_size
    shard.write_bytes(b"\7" * size)
    with (
        Feed(config) as feed,
        pytest.raises(ValueError, match=r"data-00000.* is damaged") as caught,
    ):
        next(feed)
    assert "feed worker for rows 0–5" in caught.value.__notes__[0]
    assert "store.py" in caught.value.__notes__[0]


def test_an_error_in_the_thread_is_raised_where_batches_are_asked_for(folder):
    for shard in (folder / "pairs" / "train").glob("data-*"):
        shard.write_bytes(b"\7" * shard.stat().st_size)
    with Feed(config_of(folder)) as feed:
        for _ in range(2):  # again and again, not once
            with pytest.raises(ValueError, match="is damaged"):
                next(feed)


def test_closing_stops_the_thread(folder):
    before = threading.active_count()
    feed = Feed(config_of(folder))
    next(feed)
    assert threading.active_count() == before + 1
    feed.close()
    feed.close()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="closed"):
        next(feed)


@pytest.mark.slow
def test_workers_end_with_a_parent_that_dies(folder):
    """A killed trainer leaves no workers behind: they end when their pipe does."""
    script = (
        "import sys, os; from ul2tune.feed.feed import Feed, FeedConfig\n"
        f"feed = Feed({config_of(folder, num_workers=1)!r}); next(feed)\n"
        "print(feed._producer._children[0]._process.pid, 'jax' in sys.modules, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    pid, has_jax = done.stdout.split()
    assert has_jax == "False"
    for _ in range(100):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return
        # A container without an init process never reaps it: a zombie has ended too.
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                return
        time.sleep(0.1)
    pytest.fail(f"worker {pid} outlives its parent")


def test_the_feed_and_its_workers_import_no_jax_and_no_tensorflow():
    script = (
        "import sys; import ul2tune.feed.feed, ul2tune.feed.worker\n"
        "print(*sorted({'jax', 'flax', 'tensorflow', 'seqio', 'gin'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == []


# ---- errors


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixture": "absent"}, r"absent.mixture.json does not exist. Run `ul2tune prepare`"),
        ({"split": "validation"}, r"validation.manifest.json does not exist"),
        (
            {"min_segment_tokens": 512, "max_segment_tokens": 600},
            r"too small for denoiser 'R1'.*512",
        ),
        (
            {"packing": "none", "feature_lengths": {"inputs": 2, "targets": 2}},
            r"cannot fit one token",
        ),
        (
            {"max_segment_tokens": 2000},
            r"needs 333 sentinels .* 2000 tokens.* has 200.*max_segment_tokens=2000",
        ),
        ({"layout": "causal_lm", "feature_lengths": {"targets": 512}}, r"'pairs' has inputs, but"),
    ],
)
def test_what_does_not_fit_the_data_is_named(folder, fields, message):
    config = config_of(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Feed(replace(config, **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "decoder"}, "layout is 'decoder': use one of encoder_decoder"),
        ({"packing": "best"}, "packing is 'best': use one of balanced"),
        ({"document_separator": "bos"}, "document_separator is 'bos'"),
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"max_segment_tokens": 32}, "max_segment_tokens is 32, less than min_segment_tokens=64"),
        ({"loss_on_inputs": True}, "encoder-decoder has no loss on its inputs"),
        ({"feature_lengths": {"targets": 64}}, "needs positive lengths for inputs, targets"),
        ({"feature_lengths": {"inputs": 64, "target": 9}}, "TASK_FEATURE_LENGTHS is .*'target'"),
        ({"feature_lengths": {"inputs": 64, "targets": 0}}, "needs positive lengths"),
        ({"feature_lengths": {"inputs": 2**32, "targets": 9}}, "4294967296.*Lower the lengths"),
        ({"feature_lengths": {"inputs": 2**30, "targets": 2**30}}, "at most 2,147,483,647 tokens"),
    ],
)
def test_what_makes_no_sense_is_named(folder, fields, message):
    with pytest.raises(ValueError, match=message):
        config_of(folder, **fields)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "name at least one"), ([0, 6], "global batch of 6"), ([1, 1], "repeat a row")],
)
def test_rows_must_be_rows_of_the_batch(folder, rows, message):
    with pytest.raises(ValueError, match=message):
        Feed(config_of(folder), rows)


def test_a_missing_feature_is_named(tmp_path):
    examples = [{"targets": [5, 6, 1]}] * 4
    prepared.write(tmp_path, "lm", [prepared.Task(name="lm", examples=examples)])
    with pytest.raises(ValueError, match=r"'lm' has no feature 'inputs' \(it has targets\)"):
        Feed(config_of(tmp_path, "lm"))
    lengths = {"targets": 16}
    config = config_of(tmp_path, "lm", layout="causal_lm", feature_lengths=lengths, batch_size=1)
    with Feed(config) as feed:
        np.testing.assert_array_equal(next(feed)["decoder_target_tokens"], [[5, 6, 1] * 5 + [0]])


def test_tasks_with_different_vocabularies_do_not_mix(tmp_path):
    other = vocab.load({"kind": "pass_through", "base_size": 900})
    tasks = [
        prepared.Task(name="one", examples=prepared.pairs(4)),
        prepared.Task(name="two", examples=prepared.pairs(4), vocabulary=other),
    ]
    prepared.write(tmp_path, "both", tasks)
    with pytest.raises(
        ValueError, match=r"'one' and 'two' were prepared with different vocabularies"
    ):
        Feed(config_of(tmp_path, "both"))


def test_a_task_without_text_is_named(tmp_path):
    empty = [{"targets": []}] * 5
    noise = UL2Config(denoisers=preset("ul2").denoisers[:1])
    tasks = [prepared.Task(name="void", examples=empty, noise=noise)]
    prepared.write(tmp_path, "void", tasks)
    with (
        pytest.raises(ValueError, match="'void' has no text"),
        Feed(config_of(tmp_path, "void")) as f,
    ):
        next(f)


def test_tasks_without_examples_in_a_split_are_left_out(tmp_path):
    tasks = [
        prepared.Task(name="none", examples=[], num_shards=1, noise=preset("span_corruption")),
        prepared.Task(name="pairs", examples=prepared.pairs(7)),
        prepared.Task(name="nothing", examples=[], num_shards=1),
    ]
    prepared.write(tmp_path, "holes", tasks, rates=[0.6, 0.1, 0.3])
    for epochs, count in ((1, 7), (None, 20)):
        with Feed(config_of(tmp_path, "holes", num_epochs=epochs, batch_size=1)) as feed:
            assert feed.source_names[1] == "pairs"
            found = [
                s for _, b in zip(range(20), feed) for s in prepared.unpack(b, feed.source_names)
            ]
        assert {s.source for s in found} == {"pairs"}
        assert len(found) >= count
    prepared.write(tmp_path, "empty", tasks[::2])
    with pytest.raises(ValueError, match="'empty' has no examples in split 'train': prepare other"):
        Feed(config_of(tmp_path, "empty"))


def test_looking_for_the_end_changes_nothing(folder):
    config = config_of(folder, num_epochs=1)
    with Feed(config) as feed:
        want = list(feed)
    with Feed(config) as feed:
        for batch in want:
            before = feed.get_state()
            assert not feed.is_over()
            assert not feed.is_over()
            equal(feed.get_state(), before)
            equal(next(feed), batch)
        assert feed.is_over()
        assert list(feed) == []
        feed.set_state(before)
        equal(next(feed), want[-1])
    with Feed(config_of(folder)) as feed:
        assert not feed.is_over()


@pytest.mark.parametrize("prefetch_batches", [0, 1])
def test_an_error_in_looking_for_the_end_is_that_of_the_next_batch(
    folder, monkeypatch, prefetch_batches
):
    monkeypatch.setattr(Sources, "texts", lambda *_: 1 / 0)
    with Feed(config_of(folder, num_epochs=1, prefetch_batches=prefetch_batches)) as feed:
        assert not feed.is_over()
        with pytest.raises(ZeroDivisionError):
            next(feed)


def test_a_position_of_another_run_is_refused(folder):
    with Feed(config_of(folder)) as feed:
        next(feed)
        state = feed.get_state()
    with Feed(config_of(folder, seed=1)) as feed, pytest.raises(ValueError, match="seed"):
        feed.set_state(state)
    partial = {name: value[:4] for name, value in state.items()}
    with (
        Feed(config_of(folder)) as feed,
        pytest.raises(ValueError, match="4 rows and none for row 4"),
    ):
        feed.set_state(partial)
    # Longer rows are another use of the same position.
    with Feed(config_of(folder, feature_lengths={"inputs": 300, "targets": 200})) as feed:
        feed.set_state(state)
        next(feed)
