"""Who may have a file beside whom."""

from __future__ import annotations

import contextlib
import threading

import pytest

from ul2tune import file_lock


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_shared_locks_go_together_and_no_others(tmp_path, first, second, together):
    path = tmp_path / "lock"
    with path.open("w") as a, path.open() as b:
        file_lock.lock(a, shared=first)
        refused = contextlib.nullcontext() if together else pytest.raises(BlockingIOError)
        with refused:
            file_lock.lock(b, shared=second)
        a.close()
        file_lock.lock(b)


def test_a_folder_is_held_until_the_block_ends(tmp_path):
    had = threading.Event()

    def take():
        with file_lock.locked_folder(tmp_path, wait=True):
            had.set()

    waiting = threading.Thread(target=take)
    with pytest.raises(RuntimeError), file_lock.locked_folder(tmp_path):  # noqa: PT012
        with pytest.raises(BlockingIOError), file_lock.locked_folder(tmp_path):
            pass
        waiting.start()
        assert not had.wait(timeout=0.2)
        raise RuntimeError
    waiting.join(timeout=30)
    assert had.is_set()


def test_what_is_no_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), file_lock.locked_folder(tmp_path / "file"):
        pass
