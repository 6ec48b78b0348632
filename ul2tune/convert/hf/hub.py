"""Models by name from the Hugging Face Hub: the files worth trusting, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from ul2tune.convert.hf import folder as hf_folder

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def folder(source: str, revision: str | None = None) -> Path:
    """The folder that `source` means: itself, or the local copy of a repository, downloaded if new.

    Args:
      source: a folder, or ``owner/name``.
      revision: branch, tag or commit of a repository.

    Raises:
      ValueError: if it is neither, or the repository holds no safetensors.
      ImportError: if huggingface_hub is needed and not installed.
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
    names = huggingface_hub.list_repo_files(source, revision=revision)
    if not any(name in names for name in (hf_folder.WEIGHTS, hf_folder.INDEX)):
        raise ValueError(
            f"The repository {source} holds no safetensors in its root folder; other formats are "
            f"pickles or of other frameworks, and are not downloaded."
        )
    wanted = [hf_folder.CONFIG, hf_folder.INDEX, *hf_folder.CARRIED]
    # Files of the root folder only: `*` of a pattern would match a slash.
    wanted += [name for name in names if hf_folder.is_weights_file(name)]
    return Path(huggingface_hub.snapshot_download(source, revision=revision, allow_patterns=wanted))
