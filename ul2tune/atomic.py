"""Files and folders that appear under their name when they are complete, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text(path: str | Path, text: str) -> None:
    """Writes a file in UTF-8: a reader sees the old one or the whole new one, also after a crash.

    Raises:
      OSError: if it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """A folder that appears when the block ends, and not at all after an error.

    Yields:
      A temporary folder beside `target` to write into.

    Raises:
      ValueError: if `target` exists and is not an empty folder.
    """
    target = Path(target)
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} already exists; choose a new or empty folder.")
    target = target.resolve()  # TensorStore takes no ".."
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        temporary.rename(target)  # replaces an empty folder, fails on any other
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
