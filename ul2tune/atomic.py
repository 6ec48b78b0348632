"""Files and folders that appear under their name when they are complete, or not at all."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ul2tune.file_lock import locked_folder


def write_text(path: str | Path, text: str) -> None:
    """Writes a file in UTF-8, as :func:`write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file: a reader sees the old one or the whole new one, also after a crash.

    Raises:
      OSError: if it cannot be written.
    """
    with new_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def naming(target: str | Path) -> Iterator[None]:
    """A block that writes to `target`: errors of a full disk, which know no name, get its."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
            error.filename = str(target)
        raise


@contextmanager
def new_file(target: str | Path) -> Iterator[Path]:
    """A file that takes its name when the block ends, with all its bytes on disk; after an error
    there is none, or the old one.

    Yields:
      A path beside `target` to write to. It is this process's own, and hidden: `.<name>.….tmp`.

    Raises:
      OSError: if the file cannot be brought to disk or renamed.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name.removeprefix('.')}.{os.getpid()}.tmp")
    try:
        with naming(target):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # a rename must never be seen before the bytes it names
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """A folder that appears when the block ends, and not at all after an error.

    What a killed process left behind on its way to `target` is removed.

    Yields:
      A temporary folder beside `target` to write into.

    Raises:
      ValueError: if `target` exists and is not an empty folder.
    """
    target = Path(target)
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise _taken(target)
    target = target.resolve()  # TensorStore takes no ".."
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.tmp-"
    for left in target.parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError), locked_folder(left):  # whoever still writes to it has the lock
            shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    with ExitStack() as stack:
        with suppress(OSError):  # a file system without locks: nobody else gets one either
            stack.enter_context(locked_folder(temporary))
        try:
            temporary.chmod(0o755)
            with naming(target):
                yield temporary
            _name(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _name(temporary: Path, target: Path) -> None:
    """Renames a folder.

    Raises:
      ValueError: if there is something at `target` by now, which stays; an empty folder is
        replaced.
    """
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise _taken(target) from error


def _taken(target: Path) -> ValueError:
    return ValueError(f"{target} already exists; choose a new or empty folder.")
