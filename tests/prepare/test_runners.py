"""The processes that prepare: what they print, and that none outlives the one it works for."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import seqio

from ul2tune.prepare import runners
from ul2tune.prepare.plan import make_plan
from ul2tune.prepare.progress import Progress

TASKS = """
import time
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.prepare.tasks import register_text_task

class Slow(ByteVocabulary):
    def _encode(self, text):
        time.sleep(0.05)
        return super()._encode(text)

register_text_task("slow", {words!r}, format="jsonl", vocabulary=Slow())
"""


@contextlib.contextmanager
def python(folder: Path, code: str) -> Iterator[subprocess.Popen]:
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize("module", ["audit", "runners"])
def test_loading_is_quiet(tmp_path, module):
    with python(tmp_path, f"import ul2tune.prepare.{module}") as process:
        assert process.communicate(timeout=120) == (None, "")


def children(process: subprocess.Popen) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(word) for word in text.split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_killed_parent(words, tmp_path):
    (tmp_path / "slow_task.py").write_text(TASKS.format(words=words))
    code = (
        "from ul2tune.prepare.run import prepare\n"
        "if __name__ == '__main__':\n"
        "    prepare('slow', ['slow_task'], 'data', ('train',), 2, 2)\n"
    )
    folder = tmp_path / "data" / "slow" / "train"
    with python(tmp_path, code) as process:
        deadline = time.monotonic() + 120
        while len(list(folder.glob(".*.tmp"))) < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        workers, finished = children(process), set(folder.glob("data-*"))
        process.kill()
        assert len(workers) >= 2
        deadline = time.monotonic() + 4  # a shard takes 5 s
        while any(map(running, workers)) and time.monotonic() < deadline:
            time.sleep(0.02)
        left = [worker for worker in workers if running(worker)]
        for worker in left:
            os.kill(worker, signal.SIGKILL)
        assert not left
    assert set(folder.glob("data-*")) == finished


def spawned(process: subprocess.Popen) -> list[int]:
    """Its workers; another child keeps account of shared memory, and is still there at the end."""
    return [pid for pid in children(process) if b"spawn_main" in command(pid)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


INTERRUPTED = """
import signal, sys
from ul2tune.prepare.run import prepare
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    try:
        prepare("slow", ["slow_task"], "data", ("train",), 6, 2)
    except KeyboardInterrupt:
        sys.exit("interrupted")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("send", "is_under_way"), [(os.kill, True), (os.killpg, True), (os.killpg, False)]
)
def test_an_interrupt_ends_the_workers_and_what_they_were_to_do(
    words, tmp_path, send, is_under_way
):
    """Sent to one process or, by a terminal, to all: also while the workers import TensorFlow, of
    which nothing is told, and with shards in the pool's queue, which are not begun."""
    (tmp_path / "slow_task.py").write_text(TASKS.format(words=words))
    folder = tmp_path / "data" / "slow" / "train"
    with python(tmp_path, INTERRUPTED) as process:
        deadline = time.monotonic() + 120
        while len(spawned(process)) < 2 or (is_under_way and len(list(folder.glob(".*.tmp"))) < 2):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # On a busy machine one worker may have made a shard before the other has begun.
        workers, finished = spawned(process), set(folder.glob("data-*"))
        send(process.pid, signal.SIGINT)
        said = process.communicate(timeout=120)[1]
        assert said.endswith("interrupted\n")
        assert "Traceback" not in said
        assert not any(map(running, workers))
    assert {*folder.glob("data-*"), *folder.glob(".*.tmp")} == finished


NOTING = """
import logging
import sys
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.prepare.tasks import register_text_task

print("Note: on stdout.")
print("Note: on stderr.", file=sys.stderr)
log = logging.getLogger("noting")
log.addHandler(logging.StreamHandler())

class Noting(ByteVocabulary):
    def _encode(self, text):
        log.warning("Note: of a text.")
        return super()._encode(text)

register_text_task("noting", {words!r}, format="jsonl", vocabulary=Noting())
"""


@pytest.mark.slow
def test_what_task_modules_print_is_printed_once(words, tmp_path):
    (tmp_path / "noting_task.py").write_text(NOTING.format(words=words))
    code = (
        "from ul2tune.prepare.run import prepare\n"
        "if __name__ == '__main__':\n"
        "    prepare('noting', ['noting_task'], 'data', ('train',), 2, 2)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    assert [done.stdout.count(f"Note: on {name}.") for name in ("stdout", "stderr")] == [1, 1]
    # What they print later, to the stream that they found when they were imported, is news.
    assert "Note: of a text." in done.stdout
    assert len(list((tmp_path / "data" / "noting" / "train").glob("data-*-of-00002-*"))) == 2


class Pool:
    """A pool whose processes do nothing: what becomes of its items, a test has said before."""

    def __init__(self, outcomes: list[Any]):
        self.outcomes, self.stopped_at_the_end = outcomes, False

    def __call__(self, num_workers: int, *, initargs: tuple, **_) -> Pool:
        self.stopped = initargs[-1]
        return self

    def submit(self, function, item) -> Future:
        future, outcome = Future(), self.outcomes[item]
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        elif outcome is not None:  # it is under way
            future.set_result(outcome)
        return future

    def shutdown(self, cancel_futures: bool) -> None:
        self.stopped_at_the_end = bool(self.stopped.value)


def start(outcomes: list[Any], monkeypatch) -> tuple[Pool, Iterator]:
    pool = Pool(outcomes)
    monkeypatch.setattr(runners, "ProcessPoolExecutor", pool)
    progress = Progress(title="x", num_shards=len(outcomes), stream=io.StringIO())
    return pool, runners.run_in_processes(list(range(len(outcomes))), 2, progress)  # type: ignore


def test_an_error_does_not_wait_for_shards_under_way(monkeypatch):
    pool, found = start([None, ValueError("wrong"), "first", "second"], monkeypatch)
    assert sorted([next(found), next(found)]) == [(2, "first"), (3, "second")]  # what is done
    with pytest.raises(ValueError, match="wrong"):
        next(found)
    assert pool.stopped_at_the_end


def test_nor_does_an_error_of_who_takes_the_receipts(monkeypatch):
    """Such as too many malformed records in all shards of a task together."""
    pool, found = start(["first", None], monkeypatch)
    assert next(found) == (0, "first")
    found.close()  # type: ignore[attr-defined]
    assert pool.stopped_at_the_end


class Odd(Exception):
    def __init__(self, what: str, where: str):
        super().__init__(f"{what} in {where}")


def test_an_error_that_cannot_be_pickled_is_told(monkeypatch):
    """The pool would take its process for killed."""

    def make(_) -> None:
        raise Odd("a hole", "line 3")

    monkeypatch.setattr(runners, "_workers", [SimpleNamespace(make=make)])
    with pytest.raises(RuntimeError, match="Odd: a hole in line 3"):
        runners._work(None)  # type: ignore[arg-type]


def test_a_task_that_changes_before_its_shards_are_made_is_told(task, name, tmp_path):
    plan = make_plan(seqio.TaskRegistry.get(name), "train", 2)
    work = runners.works(dataclasses.replace(plan, fingerprint="0" * 16), [], str(tmp_path))
    with pytest.raises(ValueError, match=rf"'{name}' is another one in this process than where"):
        work[0].run()


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
