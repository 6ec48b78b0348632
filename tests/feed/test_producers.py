"""A feed's thread ends before its process: inside array_record it would abort it."""

import gc
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Pipe

import numpy as np
import pytest

from tests.feed import prepared
from ul2tune.data.ul2 import preset
from ul2tune.feed import producers
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.feed import Feed
from ul2tune.feed.producers import Item, ProcessProducer, ThreadProducer, serve
from ul2tune.feed.sources import Sources
from ul2tune.feed.stats import Counts

ITEM = Item(batch={}, state={}, counts=Counts.zero(1))


@pytest.fixture
def config(tmp_path):
    texts = prepared.Task(name="texts", examples=prepared.documents(30), noise=preset("ul2"))
    return FeedConfig(
        mixture="texts",
        data_dir=str(prepared.write(tmp_path, "texts", [texts])),
        feature_lengths={"inputs": 256, "targets": 192},
        batch_size=2,
        min_segment_tokens=64,
        max_segment_tokens=128,
    )


def feed_threads():
    return [thread for thread in threading.enumerate() if thread.name == "feed"]


def assert_no_feed_thread(seconds=30):
    deadline = time.monotonic() + seconds
    while feed_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert feed_threads() == []


def run(script):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )


def test_a_process_that_closes_no_feed_ends_its_thread_and_then_itself(config):
    done = run(
        # Registered first, so it runs last.
        "import atexit, threading\n"
        "atexit.register(lambda: print([thread.name for thread in threading.enumerate()]))\n"
        "from ul2tune.feed.feed import Feed, FeedConfig\n"
        f"feed = Feed({config!r}); next(feed)\n"
        "print([thread.name for thread in threading.enumerate()])"
    )
    assert done.stdout.splitlines() == ["['MainThread', 'feed']", "['MainThread']"]
    assert (done.returncode, done.stderr) == (0, "")


def test_a_worker_whose_feed_was_closed_ends_its_thread(config):
    ours, theirs = Pipe()
    worker = threading.Thread(target=serve, args=(theirs,))
    worker.start()
    ours.send((config, np.arange(2), None))
    assert isinstance(ours.recv(), Item)
    assert len(feed_threads()) == 1
    ours.close()
    worker.join(timeout=30)
    assert not worker.is_alive()
    assert feed_threads() == []


@pytest.mark.parametrize("take", [0, 1])
def test_a_producer_that_is_dropped_ends_its_thread(config, take):
    """Also one that waits for room, which nobody will make."""
    producer = ThreadProducer(Sources(config), np.arange(2), None, depth=1)
    for _ in range(take):
        producer.get()
    assert len(feed_threads()) == 1
    del producer
    assert_no_feed_thread()


def test_a_feed_that_is_dropped_ends_its_processes(config):
    feed = Feed(FeedConfig(**vars(config) | {"num_workers": 1}))
    next(feed)
    [child] = feed._producer._children
    assert child._process.poll() is None
    del feed
    assert child._process.poll() is not None


def test_a_worker_that_dies_before_it_has_its_position_is_a_sentence(config, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    state = {"ordinal": np.zeros((2, 10**6), np.int64)}  # more than waits in a pipe
    producer = ProcessProducer(FeedConfig(**vars(config) | {"num_workers": 1}), np.arange(2), state)
    with pytest.raises(ChildProcessError, match=r"worker for rows 0–1 died with exit code 1"):
        producer.get()


class Scripted:
    """In place of what makes the items: calls a function before each."""

    def __init__(self, before):
        self._before = before

    def get(self):
        self._before()
        return ITEM


def test_the_collector_may_run_where_an_item_is_made(monkeypatch):
    """A producer in a cycle is then dropped by its own thread, which cannot wait for itself."""
    raised, dropped, collected = [], threading.Event(), threading.Event()

    def collect():
        dropped.wait(30)
        gc.collect()
        collected.set()

    monkeypatch.setattr(producers, "DirectProducer", lambda *_: Scripted(collect))
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    producer = ThreadProducer(None, None, None, depth=2)
    producer.me = producer
    del producer
    dropped.set()
    assert collected.wait(30)
    assert_no_feed_thread()
    assert raised == []


def test_the_collector_may_run_with_the_queues_lock_held(monkeypatch):
    dropped, collected = threading.Event(), threading.Event()

    class CollectingQueue(queue.Queue):
        def _put(self, item):
            super()._put(item)
            dropped.wait(30)
            gc.collect()
            collected.set()

    monkeypatch.setattr(producers, "DirectProducer", lambda *_: Scripted(lambda: None))
    monkeypatch.setattr(producers.queue, "Queue", CollectingQueue)
    producer = ThreadProducer(None, None, None, depth=8)
    producer.me = producer
    del producer
    dropped.set()
    assert collected.wait(10)
    assert_no_feed_thread()


def test_a_feed_may_be_closed_by_its_own_thread(config, monkeypatch):
    """As by the collector, of a generator with a `with Feed(…)`: the files stay open."""
    told, closed, files_closed = queue.Queue(), threading.Event(), []

    def close_it():
        told.get().close()
        closed.set()

    monkeypatch.setattr(producers, "DirectProducer", lambda *_: Scripted(close_it))
    feed = Feed(config)
    monkeypatch.setattr(feed._sources, "close", lambda: files_closed.append(True))
    feed._producer = feed._start()
    told.put(feed)
    assert closed.wait(30)
    assert_no_feed_thread()
    assert files_closed == []


def test_a_process_ends_although_an_item_is_stuck():
    done = run(
        "import time\n"
        "from ul2tune.feed import producers\n"
        "class Stuck:\n"
        "    def __init__(self, *_): pass\n"
        "    def get(self): time.sleep(1000)\n"
        "producers.DirectProducer, producers._STOP_SECONDS = Stuck, 0.25\n"
        "producer = producers.ThreadProducer(None, None, None, 2)"
    )
    assert done.returncode == 0
    assert "feed's thread has not ended within 0.25 s of being asked to" in done.stderr


def test_a_feed_whose_item_is_stuck_is_closed_and_its_files_stay_open(config, monkeypatch, caplog):
    stuck = threading.Event()
    monkeypatch.setattr(producers, "_STOP_SECONDS", 0.1)
    monkeypatch.setattr(producers, "DirectProducer", lambda *_: Scripted(lambda: stuck.wait(30)))
    feed = Feed(config)
    closed = []
    monkeypatch.setattr(feed._sources, "close", lambda: closed.append(True))
    before, feed._producer = feed._sources, feed._start()
    feed.set_state(feed.get_state())
    assert feed._sources is not before  # the thread still reads from those
    feed._producer = feed._start()
    monkeypatch.setattr(feed._sources, "close", lambda: closed.append(True))
    feed.close()
    assert (closed, len(caplog.messages)) == ([], 2)
    stuck.set()
    assert_no_feed_thread()
