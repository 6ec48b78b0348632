"""A feed's thread ends before its process: inside array_record it would abort it."""

import os
import subprocess
import sys
import threading
from multiprocessing.connection import Pipe

import numpy as np
import pytest

from tests.feed import prepared
from ul2tune.data.ul2 import preset
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.producers import Item, ThreadProducer, serve
from ul2tune.feed.sources import Sources


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


def test_a_process_that_closes_no_feed_ends_its_thread_and_then_itself(config):
    script = (
        # Registered first, so it runs last.
        "import atexit, threading\n"
        "atexit.register(lambda: print([thread.name for thread in threading.enumerate()]))\n"
        "from ul2tune.feed.feed import Feed, FeedConfig\n"
        f"feed = Feed({config!r}); next(feed)\n"
        "print([thread.name for thread in threading.enumerate()])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
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


def test_a_producer_that_is_dropped_ends_its_thread(config):
    producer = ThreadProducer(Sources(config), np.arange(2), None, depth=1)
    producer.get()
    assert len(feed_threads()) == 1
    del producer
    assert feed_threads() == []
