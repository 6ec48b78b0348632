"""The operative configuration of every shipped recipe, as the command in its header resolves it.

`python -m tests.cli.golden_configs` (`make goldens`) rewrites the files in golden/. Do it when a
recipe was meant to change, and read the diff: it shows what the change does to every recipe.
"""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ul2tune.cli import gin_config, options

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("golden")
GIN = ROOT / "gin"


def recipes() -> list[Path]:
    return sorted((GIN / "recipes").glob("*.gin"))


def commands(file: Path) -> Iterator[list[str]]:
    """The `ul2tune …` commands in a file's header: arguments only, environment left out."""
    lines = file.read_text(encoding="utf-8").splitlines()
    header = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    for i, line in enumerate(header):
        while line.endswith("\\"):
            i += 1
            line = line[:-1] + header[i]
        words = shlex.split(line) if " ul2tune " in f" {line} " and "--gin_file" in line else []
        if "ul2tune" in words:
            yield words[words.index("ul2tune") + 1 :]


def roots(command: str) -> tuple[Callable[..., Any], ...]:
    return importlib.import_module(options.COMMANDS[command][0]).ROOTS


def resolve(arguments: list[str]) -> gin_config.Config:
    parsed = options.parse(arguments)
    return gin_config.load(parsed.gin_file, parsed.gin, roots=roots(parsed.command))


def golden_text(recipe: Path) -> str:
    (arguments,) = commands(recipe)
    return resolve(arguments).text


def update() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.glob("*.gin"):
        old.unlink()
    for recipe in recipes():
        (GOLDEN / recipe.name).write_text(golden_text(recipe), encoding="utf-8")
        print(f"{(GOLDEN / recipe.name).relative_to(ROOT)}")


if __name__ == "__main__":
    update()
