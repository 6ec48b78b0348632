"""`ul2tune init DIR`: a project to start from, the same files a checkout has."""

from __future__ import annotations

import argparse
import shlex
import shutil
from contextlib import ExitStack
from pathlib import Path

from ul2tune import atomic
from ul2tune.cli import project

_FOLDERS = ("gin", "tasks")

_OWN_TEXT = """
Your own text: a file my_tasks.py beside gin/ with

  from ul2tune.prepare.tasks import register_text_task
  register_text_task("notes", "/data/notes/*.jsonl", format="jsonl", vocabulary="trained")

then add to both commands

  --gin.MIXTURE_OR_TASK_NAME=notes --gin.TASK_MODULES="('my_tasks',)" --gin.MODEL_DIR=runs/notes"""


def run(options: argparse.Namespace) -> None:
    """Copies gin/ and tasks/ into a folder that has neither.

    Raises:
      ValueError: if one of them is already there, or DIR is a file.
    """
    target = Path(options.directory)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; name a folder.")
    with ExitStack() as stack:  # both, or none
        for folder in _FOLDERS:
            new = stack.enter_context(atomic.new_folder(target / folder))
            _copy(project.project_root() / folder, new)
    print(f"Wrote {', '.join(f'{target / folder}' for folder in _FOLDERS)}. Next:\n")
    print(f"  cd {shlex.quote(str(target))}")
    print("  ul2tune inspect --gin_file=recipes/demo_pretrain.gin   # look at the data")
    print("  ul2tune train --gin_file=recipes/demo_pretrain.gin     # train on it")
    print(_OWN_TEXT)


def _copy(source: Path, target: Path) -> None:
    """Copies a folder, not what Python or others keep there. `shutil.copytree` goes on after an
    error: of a full disk it tells once for every file."""
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        hidden = any(part == "__pycache__" or part.startswith(".") for part in inside.parts)
        if path.is_file() and not hidden:
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / inside)
