"""`ul2tune train` in two processes: when one fails, the other does not wait for it."""

from __future__ import annotations

import threading
import time
from concurrent import futures

import pytest

from tests import compiling
from tests.cli import test_resume as resume
from tests.training import processes, tiny
from ul2tune.training import lock

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    tiny.write_data(path)
    return path


def train(folder, data_dir, *flags):
    """Starts two processes; returns them."""
    macros = resume.MACROS | {"DATA_DIR": str(data_dir), "MODEL_DIR": str(folder / "run")}
    macros["TRAIN_STEPS"] = 3
    arguments = [f"--gin_file={file}" for file in resume.FILES]
    arguments += [f"--gin.{name}={value!r}" for name, value in macros.items()]
    arguments += [f"--coordinator_address=127.0.0.1:{processes.free_port()}", "--process_count=2"]
    environment = {"JAX_NUM_CPU_DEVICES": "2", **compiling.environment()}
    return [
        processes.launch(
            "ul2tune", "train", *arguments, *flags, f"--process_index={i}", **environment
        )
        for i in range(2)
    ]


def outlive(folder, data_dir, failing, failed):
    """Two processes, one of which fails: what both wrote, and how and after how many seconds the
    other ended. Sets `failed` in between."""
    hook = folder / "hook.gin"
    hook.write_text(
        "from __gin__ import dynamic_registration\n"
        "from tests.cli import failing\n"
        "HOOKS = (@failing.FailingHook(),)\n"
        f"failing.FailingHook.process = {failing}\n"
    )
    both = train(folder, data_dir, f"--gin_file={hook}")
    try:
        text = processes.finish(both[failing], expect=1)
        gone = time.monotonic()
        failed.set()
        status = both[1 - failing].wait(timeout=45)
        secs = time.monotonic() - gone
        return text, processes.finish(both[1 - failing], expect=status), status, secs
    finally:
        for process in both:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, data_dir):
    """Both cases, the second once the first has failed: process 0 finds in the cache by then what
    it would compile. The rest of the first is waiting."""
    failed = threading.Event()
    folders = [tmp_path_factory.mktemp(f"process_{i}") for i in range(2)]
    with futures.ThreadPoolExecutor() as pool:
        first = pool.submit(outlive, folders[0], data_dir, 0, failed)
        first.add_done_callback(lambda _: failed.set())
        failed.wait()
        yield [first, pool.submit(outlive, folders[1], data_dir, 1, failed)]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_process_ends_the_other_soon(outcomes, failing):
    text, others, status, secs = outcomes[failing].result()
    assert f"ul2tune train: process {failing} fails after step 1" in text
    assert status != 0
    assert secs < 45
    # Without process 0, JAX may end the process before that hears anything.
    assert "ul2tune train: process 0 of 2 has lost another one (" in others or failing == 0
    assert "Traceback" not in others


def test_what_process_0_finds_at_the_start_all_say(tmp_path, data_dir):
    with lock.exclusive(tmp_path / "run"):
        written = processes.finish_all(train(tmp_path, data_dir), expect=1)
    for text in written:
        assert "ul2tune train: Another process is training in" in text
