"""Three levels of generalisation (OPT-IML, section 2): what training saw of a task.

    held_out     nothing of its category               (fully held out)
    partial      its category, but not its dataset     (partially supervised)
    supervised   its dataset, but not its examples     (fully supervised)

Any catalogue of tasks will do: what counts is each task's category and dataset. One dataset often
lives under several names (SQuAD in PromptSource, in FLAN, as a Super-NI task); they must share
`dataset` to be recognised as one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ul2tune.instructions.records import SplitLevel
from ul2tune.instructions.superni import split_hash


@dataclass(frozen=True, kw_only=True)
class CatalogueTask:
    """A task as far as splits are concerned.

    Attributes:
      name: unique in the catalogue.
      category: the kind of task.
      cluster: a wider group of categories; empty = the category.
      dataset: what its examples are from; empty = the task itself.
      benchmark: the collection it is from.
    """

    name: str
    category: str
    cluster: str = ""
    dataset: str = ""
    benchmark: str = ""

    @property
    def source(self) -> str:
        """The dataset's name in lower case, so that spellings agree."""
        return (self.dataset or self.name).lower()


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is held back.

    Attributes:
      categories: all tasks of these are fully held out.
      clusters: all tasks of these, too.
      datasets: partially supervised, unless their category is held out.
      supervised: datasets whose own held-out examples are evaluated; they are trained on.
    """

    categories: frozenset[str] = frozenset()
    clusters: frozenset[str] = frozenset()
    datasets: frozenset[str] = frozenset()
    supervised: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Split:
    """A catalogue divided.

    Attributes:
      levels: of every task, in the order of names; `Record.split_level` takes them.
      excluded: tasks that would leak, with the reason: neither trained on nor evaluated.
      hash: 16 hexadecimal digits, published with every score.
    """

    levels: Mapping[str, SplitLevel]
    excluded: Mapping[str, str]
    hash: str

    def tasks(self, level: SplitLevel) -> tuple[str, ...]:
        """Names of one level."""
        return tuple(name for name, found in self.levels.items() if found == level)

    @property
    def training(self) -> tuple[str, ...]:
        """Names of all tasks that are trained on."""
        return tuple(n for n, level in self.levels.items() if level in ("train", "supervised"))


def split(catalogue: Iterable[CatalogueTask], choices: Choices) -> Split:
    """Assigns a level to every task; depends on neither order nor chance.

    A task of a held-back dataset is never trained on, whatever its own category: where it is not
    itself evaluated at the level the choices give it, it is *excluded*.

    Args:
      catalogue: the tasks.
      choices: what is held back.

    Raises:
      ValueError: if two tasks have one name, a choice names nothing in the catalogue, a dataset is
        chosen for two levels, or a partially supervised task has no relative in training.
    """
    tasks = sorted(catalogue, key=lambda task: task.name)
    _check_names(tasks)
    wanted = {
        "held_out": {task.source for task in tasks if _is_held_out(task, choices)},
        "partial": {name.lower() for name in choices.datasets},
        "supervised": {name.lower() for name in choices.supervised},
    }
    _check_choices(tasks, choices, wanted)
    levels: dict[str, SplitLevel] = {}
    excluded: dict[str, str] = {}
    for task in tasks:
        if _is_held_out(task, choices):
            levels[task.name] = "held_out"
        elif task.source in wanted["held_out"]:
            excluded[task.name] = (
                f"its dataset {task.source!r} is also in a held-out category, its own "
                f"({task.category!r}) is trained on"
            )
        elif task.source in wanted["partial"]:
            levels[task.name] = "partial"
        else:
            levels[task.name] = "supervised" if task.source in wanted["supervised"] else "train"
    names = [*(f"{name}={level}" for name, level in levels.items()), *sorted(excluded)]
    found = Split(levels=levels, excluded=excluded, hash=split_hash(names))
    _check_relatives(tasks, found)
    return found


def leaks(catalogue: Iterable[CatalogueTask], levels: Mapping[str, SplitLevel]) -> tuple[str, ...]:
    """What is wrong with levels from elsewhere, a sentence each; nothing if they hold.

    Args:
      catalogue: the tasks; those without a level are not used.
      levels: by task.
    """
    used = sorted((t for t in catalogue if t.name in levels), key=lambda task: task.name)
    training = [t for t in used if levels[t.name] in ("train", "supervised")]
    categories = {task.category: task.name for task in reversed(training)}
    sources = {task.source: task.name for task in reversed(training)}
    found = []
    for task in used:
        level = levels[task.name]
        if level in ("held_out", "partial") and task.source in sources:
            found.append(
                f"{task.name} is {level}, but {sources[task.source]} trains on its dataset "
                f"{task.source!r}."
            )
        if level == "held_out" and task.category in categories:
            found.append(
                f"{task.name} is held_out, but {categories[task.category]} trains on its category "
                f"{task.category!r}."
            )
        if level == "partial" and task.category not in categories:
            found.append(f"{task.name} is partial, but no task trains on {task.category!r}.")
    return tuple(found)


def _is_held_out(task: CatalogueTask, choices: Choices) -> bool:
    cluster = task.cluster or task.category
    return task.category in choices.categories or cluster in choices.clusters


def _check_names(tasks: list[CatalogueTask]) -> None:
    for one, other in itertools.pairwise(tasks):
        if one.name == other.name:
            raise ValueError(f"Two tasks of the catalogue are called {one.name!r}.")


def _check_choices(
    tasks: list[CatalogueTask], choices: Choices, wanted: Mapping[str, set[str]]
) -> None:
    sources = {task.source for task in tasks}
    known = {
        "categories": (choices.categories, {task.category for task in tasks}),
        "clusters": (choices.clusters, {task.cluster or task.category for task in tasks}),
        "datasets": (wanted["partial"], sources),
        "supervised": (wanted["supervised"], sources),
    }
    for field, (chosen, there) in known.items():
        if absent := sorted(chosen - there):
            raise ValueError(f"Choices.{field} names {absent[0]!r}, which no task has.")
    for one, other in (("held_out", "supervised"), ("partial", "supervised")):
        if both := sorted(wanted[one] & wanted[other]):
            raise ValueError(f"Dataset {both[0]!r} is chosen to be {one} and {other}: take one.")


def _check_relatives(tasks: list[CatalogueTask], found: Split) -> None:
    training = set(found.training)
    seen = {task.category for task in tasks if task.name in training}
    for task in tasks:
        if found.levels.get(task.name) == "partial" and task.category not in seen:
            raise ValueError(
                f"Task {task.name!r} is to be partially supervised, but nothing of its category "
                f"{task.category!r} is trained on: hold the category out, or train on some of it."
            )
