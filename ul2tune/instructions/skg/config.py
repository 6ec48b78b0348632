"""UnifiedSKG's configuration files as data: which tasks, written how, mixed at which temperature.

    configure/Salesforce/T5_large_finetune_all_tasks_2upsample.cfg   a run: tasks, temperature, …
    configure/META_TUNING/spider_with_cell.cfg                       a task: how it is written

What concerns training (Adafactor, prefixes, early stopping) is not read: see docs/unifiedskg.md.
"""

from __future__ import annotations

import configparser
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

from ul2tune.instructions.reading import inside, read_text
from ul2tune.instructions.skg.prompt import Knowledge

_CONSTRUCTOR = "seq2seq_construction."


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """How one task is written.

    Attributes:
      name: of its configuration file, such as ``"spider_with_cell"``.
      kind: what writes it: "wikitq", "tab_fact", "dart", "spider", "multiwoz", …
      description: that may start the prompt.
      table_tokens: budget of request and table; None = no table.
      expansion: how often a training example is repeated, each time with other rows deleted.
      cell_values: mention values of the database (Spider).
      sentences: write the schema in sentences (Spider).
      db_id_in_target: start the target with the database's name (Spider).
      separate_slots: one example per slot instead of per turn (MultiWoZ).
      few_shot: share of the training examples that is used; None = all.
    """

    name: str
    kind: str
    description: str = ""
    table_tokens: int | None = None
    expansion: int = 1
    cell_values: bool = False
    sentences: bool = False
    db_id_in_target: bool = False
    separate_slots: bool = False
    few_shot: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A set of tasks trained together.

    Attributes:
      tasks: by the names the run gives them, in the file's order.
      describe: start prompts with the task's description.
      knowledge: where the structure goes: see `skg.prompt.compose`.
      temperature: T of n^(1/T) mixing.
      added_tokens: what is added to the vocabulary.
    """

    tasks: Mapping[str, TaskConfig]
    describe: bool = False
    knowledge: Knowledge = "concatenate"
    temperature: float = 1.0
    added_tokens: tuple[str, ...] = ()


def load_run(path: str | Path, root: str | Path | None = None) -> RunConfig:
    """Reads the configuration of a run, and those of its tasks.

    Args:
      path: the file.
      root: what paths of tasks are relative to; None = the folder above that of the file.

    Raises:
      ValueError: naming file, section, key and what is wrong.
    """
    path = Path(path)
    parser = _read(path)
    root = path.parent.parent if root is None else Path(root)
    if not parser.has_section("arg_paths") or not parser.options("arg_paths"):
        raise ValueError(f"{path}: section [arg_paths] must list the tasks.")
    section = _Section(path, parser, "model")
    knowledge = section.text("knowledge_usage", "concatenate")
    if knowledge not in ("concatenate", "separate"):
        section.fail("knowledge_usage", knowledge, "'concatenate' or 'separate'")
    temperature = _Section(path, parser, "dataset").number("upsample_temp", 1.0)
    if temperature is None or not 0 < temperature < math.inf:
        raise ValueError(f"{path}: [dataset] upsample_temp must be positive, got {temperature}.")
    return RunConfig(
        tasks={name: load_task(inside(root, file)) for name, file in parser.items("arg_paths")},
        describe=section.flag("use_description") and section.flag("concatenate_description"),
        knowledge=cast(Knowledge, knowledge),
        temperature=temperature,
        added_tokens=_Section(path, parser, "special_tokens").texts(),
    )


def load_task(path: str | Path) -> TaskConfig:
    """Reads the configuration of one task.

    Raises:
      ValueError: naming file, section, key and what is wrong.
    """
    path = Path(path)
    parser = _read(path)
    section = _Section(path, parser, "seq2seq")
    constructor = section.text("constructor")
    if not constructor.startswith(_CONSTRUCTOR):
        section.fail("constructor", constructor, f"{_CONSTRUCTOR}…")
    kind = constructor.removeprefix(_CONSTRUCTOR)
    mode = section.text("mode", "sequential")
    if mode not in ("sequential", "separate"):
        section.fail("mode", mode, "'sequential' or 'separate'")
    if mode == "separate" and kind != "multiwoz":
        section.fail("mode", mode, f"'sequential' ({kind} has no slots to separate)")
    share = section.number("few_shot_rate")
    if share is not None and not 0 < share <= 1:
        section.fail("few_shot_rate", str(share), "a share between 0 and 1")
    return TaskConfig(
        name=path.stem,
        kind=kind,
        description=_Section(path, parser, "model").text("description", ""),
        table_tokens=section.count("table_truncation_max_length", 2**20),
        expansion=section.count("expansion", 1000) or 1,
        cell_values=section.flag("schema_serialization_with_db_content"),
        sentences=section.flag("schema_serialization_with_nl"),
        db_id_in_target=section.flag("target_with_db_id"),
        separate_slots=mode == "separate",
        few_shot=share,
    )


class _Section:
    """One section of a file; a section that is not there has no keys."""

    def __init__(self, path: Path, parser: configparser.ConfigParser, name: str):
        self._path, self._name = path, name
        self._values = dict(parser.items(name)) if parser.has_section(name) else {}

    def texts(self) -> tuple[str, ...]:
        return tuple(map(self.text, self._values))

    def text(self, key: str, default: str | None = None) -> str:
        """Without the quotation marks around it, which keep spaces."""
        value = self._values.get(key, default)
        if value is None:
            raise ValueError(f"{self._path}: [{self._name}] has no {key!r}.")
        return value.strip("\"'")

    def flag(self, key: str) -> bool:
        value = self.text(key, "False")
        if value not in ("True", "true", "False", "false"):
            self.fail(key, value, "True or False")
        return value in ("True", "true")

    def number(self, key: str, default: float | None = None) -> float | None:
        if key not in self._values:
            return default
        try:
            return float(self.text(key))
        except ValueError:
            self.fail(key, self._values[key], "a number")

    def count(self, key: str, largest: int) -> int | None:
        value = self.number(key)
        if value is not None and not (1 <= value <= largest and value == int(value)):
            self.fail(key, self._values[key], f"a whole number from 1 to {largest:,}")
        return None if value is None else int(value)

    def fail(self, key: str, value: str, expected: str) -> NoReturn:
        raise ValueError(f"{self._path}: [{self._name}] {key} must be {expected}, got {value!r}.")


def _read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path), str(path))
    except configparser.Error as error:
        reason = " ".join(str(error).split())  # of several lines, naming the line
        raise ValueError(f"{path}: not a configuration file ({reason:.300}).") from error
    return parser
