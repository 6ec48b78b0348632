"""Models by name from the Hugging Face Hub: the files worth trusting, and no others."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from ul2tune.convert.hf import folder as hf_folder

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# The packages whose errors mean that something is wrong between here and the hub.
_CLIENTS = {"huggingface_hub", "hf_xet", "httpx", "httpx2"}


def folder(source: str, revision: str | None = None) -> Path:
    """The folder that `source` means: itself, or the local copy of a repository, downloaded if new.

    Args:
      source: a folder, or ``owner/name``.
      revision: branch, tag or commit of a repository.

    Raises:
      ValueError: if it is neither, or the repository holds no safetensors.
      ImportError: if huggingface_hub is needed and not installed.
      OSError: if the hub cannot be reached, or has no such repository or revision for us.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise ValueError(f"--revision={revision} is for repositories; {source} is a folder.")
        return Path(source)
    if not _REPO_ID.fullmatch(source) or ".." in source:
        raise ValueError(f"{source} is neither a folder nor the name of a repository (owner/name).")
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]  # an optional extra
    except ImportError as error:
        raise ImportError(
            f"There is no folder {source}, and downloading a repository of that name needs "
            f"huggingface_hub: pip install 'ul2tune[hf]'."
        ) from error
    with _reached(source):
        names = huggingface_hub.list_repo_files(source, revision=revision)
    if not any(name in names for name in (hf_folder.WEIGHTS, hf_folder.INDEX)):
        raise ValueError(
            f"The repository {source} holds no safetensors in its root folder; other formats are "
            f"pickles or of other frameworks, and are not downloaded."
        )
    wanted = [hf_folder.CONFIG, hf_folder.INDEX, *hf_folder.CARRIED]
    # Files of the root folder only: `*` of a pattern would match a slash.
    wanted += [name for name in names if hf_folder.is_weights_file(name)]
    with _reached(source):
        found = huggingface_hub.snapshot_download(source, revision=revision, allow_patterns=wanted)
    return Path(found)


@contextlib.contextmanager
def _reached(source: str) -> Iterator[None]:
    """Errors of the connection as a sentence.

    Their classes are those of the HTTP client, which huggingface_hub changes (requests', which are
    OSErrors, then httpx's, httpx2's), and a few of its own; most of these are OSErrors and
    ValueErrors with sentences. hf_xet, which transfers large files, mostly raises plain
    RuntimeErrors. Any other error is a bug, and not the connection's.
    """
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        if packages.isdisjoint(_CLIENTS) and type(error) is not RuntimeError:
            raise
        raise ConnectionError(
            f"The repository {source} cannot be downloaded from the Hugging Face Hub ({error}). "
            f"Check the connection, or give a folder that holds the model."
        ) from error
