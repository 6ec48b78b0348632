"""Files and folders are there whole, or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ul2tune import atomic


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path):
    file = tmp_path / "x.json"
    for text in ("old\n", "nü\n"):
        atomic.write_text(file, text)
        assert file.read_bytes() == text.encode()
    with pytest.raises(UnicodeEncodeError):
        atomic.write_text(file, "half \ud800")
    assert file.read_text(encoding="utf-8") == "nü\n"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_leaves_the_old_one_alone(tmp_path, monkeypatch, call):
    file = tmp_path / "x.json"
    atomic.write_text(file, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_text(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert file.read_text() == "old"


def test_a_file_that_is_written_piece_by_piece(tmp_path: Path):
    file = tmp_path / "x.bin"
    with atomic.new_file(file) as temporary:
        assert temporary.name == f".x.bin.{os.getpid()}.tmp"
        temporary.write_bytes(b"old")
        assert not file.exists()
    with pytest.raises(RuntimeError), atomic.new_file(file) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise RuntimeError
    with pytest.raises(FileNotFoundError), atomic.new_file(file):
        pass  # nothing was written
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
    assert file.read_bytes() == b"old"


def test_what_a_kill_leaves_of_a_hidden_file_is_named_like_it(tmp_path: Path):
    """`prepare` looks for `.data-*`: receipts, and what is left of them."""
    with atomic.new_file(tmp_path / ".data-0.json") as temporary:
        assert temporary.match(".data-*.tmp")
        temporary.touch()


def test_an_error_leaves_no_folder_behind(tmp_path: Path):
    with pytest.raises(RuntimeError), atomic.new_folder(tmp_path / "new") as folder:  # noqa: PT012
        (folder / "half").write_text("…")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("new", [atomic.new_file, atomic.new_folder])
def test_a_full_disk_is_told_with_the_name(new, tmp_path: Path):
    for named, told in ((None, str(tmp_path / "new")), ("there", "there")):
        with pytest.raises(OSError, match="No space") as error, new(tmp_path / "new"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), named)
        assert error.value.filename == told
    with pytest.raises(OSError, match="No such") as error, new(tmp_path / "new"):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    assert error.value.filename is None


KILLED = """
import os, sys
from ul2tune import atomic
with atomic.new_folder(sys.argv[1]) as folder:
    (folder / "weights").write_text("…")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("name", ["new", "n[e]w*"])
def test_what_a_kill_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path, name: str):
    command = [sys.executable, "-c", KILLED, str(tmp_path / name)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    with atomic.new_folder(tmp_path / f"{name}er"):  # is another one's
        assert left.exists()
    with atomic.new_folder(tmp_path / name) as folder:
        assert not left.exists()
        with pytest.raises(RuntimeError), atomic.new_folder(tmp_path / name) as second:  # noqa: PT012
            assert second != folder
            raise RuntimeError
        assert folder.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}er"]


def test_a_folder_may_be_named_by_way_of_others(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("a/../new", "link"):
        with atomic.new_folder(tmp_path / name) as folder:
            assert ".." not in folder.parts
            (folder / "x").touch()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x"]
    assert [p.name for p in (tmp_path / "empty").iterdir()] == ["x"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_came_meanwhile_stays(tmp_path: Path, kind: str):
    """Another process was faster, and nothing is lost of what it wrote."""
    target = tmp_path / "new"
    with (  # noqa: PT012
        pytest.raises(ValueError, match=f"{target} already exists; choose a new or empty folder"),
        atomic.new_folder(target) as folder,
    ):
        (folder / "x").write_text("late")
        if kind == "folder":
            target.mkdir()
            (target / "x").write_text("early")
        elif kind == "file":
            target.write_text("early")
        else:
            target.symlink_to("nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert kind == "link" or (target / "x" if kind == "folder" else target).read_text() == "early"


def test_existing_files_are_never_overwritten(tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("full", "file", "link"):
        with (
            pytest.raises(ValueError, match="already exists"),
            atomic.new_folder(tmp_path / name),
        ):
            pass
    (tmp_path / "empty").mkdir()
    with atomic.new_folder(tmp_path / "empty") as folder:
        (folder / "x").write_text("new")
    assert (tmp_path / "empty" / "x").read_text() == "new"
    assert not list(tmp_path.glob(".*"))
