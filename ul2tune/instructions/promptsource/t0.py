"""T0's choice of data sets and prompts, and how often it trained on each.

    catalogue = load(datasets_csv="t0/datasets.csv", templates="promptsource/templates")
    rates(catalogue, "t0_train")                 # {"ag_news_classify": 120000, …}
    totals(catalogue, "BASE")                    # 38 data sets, 313 prompts, 17,277,798

Source: Sanh et al. 2022 (arXiv:2110.08207), `t0/seqio_tasks/tasks.py` and `t0/datasets.csv`, with
columns HF_name, subset, task_by_convention, do_train, do_eval, train_size. A *prompt task* is a
data set under one template. Names of tasks T0 left out, for being too long or badly cached, are in
`t0.json`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ul2tune.instructions import reading
from ul2tune.instructions.promptsource import templates as promptsource
from ul2tune.instructions.promptsource.templates import DatasetTemplates, Template

CapRule = Literal["t0_cap", "paper"]
TRAIN_GROUPS = ("BASE", "GPT_EVAL", "SGLUE")
EVAL_GROUPS = ("BASE", "BIAS_FAIRNESS")
MAX_EXAMPLES = 500_000
_COLUMNS = ("HF_name", "subset", "task_by_convention", "do_train", "do_eval", "train_size")
# mixture -> groups it trains on
_TRAIN_MIXTURES: Mapping[str, tuple[str, ...]] = {
    "t0_train": ("BASE",),
    "t0+_train": ("BASE", "GPT_EVAL"),
    "t0++_train": ("BASE", "GPT_EVAL", "SGLUE"),
}
_PROMPT_MIXTURES = ("t0_train_one_og_prompt", "t0_train_all_og_prompts")
_EVAL_MIXTURES = ("t0_eval_score_eval", "t0_train_score_eval", "bias_fairness_eval_score_eval")
MIXTURES = (*_TRAIN_MIXTURES, *_PROMPT_MIXTURES, *_EVAL_MIXTURES)
DatasetKey = tuple[str, str | None]


@dataclass(frozen=True, kw_only=True)
class DatasetRow:
    """One line of `datasets.csv`.

    Attributes:
      dataset, subset: Hugging Face names.
      category: the paper's kind of task, such as ``"NLI"``.
      train_group: one of :data:`TRAIN_GROUPS`, or empty = not trained on.
      eval_group: one of :data:`EVAL_GROUPS`, or empty = not evaluated on.
      train_size: training examples; None = not stated.
    """

    dataset: str
    subset: str | None
    category: str
    train_group: str
    eval_group: str
    train_size: int | None


@dataclass(frozen=True, kw_only=True)
class PromptTask:
    """A data set under one template.

    Attributes:
      name: as SeqIO knows it.
      row: the data set.
      template: the prompt.
      round: of ANLI, whose rounds are splits: ``"r1"``…; else empty.
      num_templates: of the data set.
    """

    name: str
    row: DatasetRow
    template: Template
    round: str
    num_templates: int

    @property
    def dataset_name(self) -> str:
        """What all prompt tasks of the data set share."""
        name = "_".join(part for part in (self.row.dataset, self.row.subset, self.round) if part)
        return clean(name)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All prompt tasks of T0, data set by data set in the order of the names, prompts by name.

    Attributes:
      tasks: by SeqIO name.
      missing: data sets of the table that no templates were found for.
    """

    tasks: Mapping[str, PromptTask]
    missing: tuple[DatasetKey, ...]


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Of one group, before anything is excluded."""

    num_datasets: int
    num_prompts: int
    rate: int


def load(*, datasets_csv: str | Path, templates: str | Path) -> Catalogue:
    """Joins your copies of `t0/datasets.csv` and of PromptSource's templates.

    Raises:
      ValueError: if one is malformed, with file, line and reason, or they share no data set.
    """
    rows = read_datasets(datasets_csv)
    return catalogue(rows, promptsource.load_folder(templates))


def read_datasets(path: str | Path) -> tuple[DatasetRow, ...]:
    """Reads `datasets.csv`.

    Raises:
      ValueError: naming file, line and what is wrong there.
    """
    columns, lines = reading.read_table(path)
    if columns != _COLUMNS:
        raise ValueError(f"{path}:1: expected the columns {_COLUMNS}, got {columns!r:.200}.")
    rows: dict[DatasetKey, DatasetRow] = {}
    for number, line in lines:
        row = _parse(line, f"{path}:{number}")
        if (row.dataset, row.subset) in rows:
            raise ValueError(f"{path}:{number}: {row.dataset}/{row.subset} is a repeat.")
        rows[row.dataset, row.subset] = row
    return tuple(rows.values())


def catalogue(
    rows: tuple[DatasetRow, ...], templates: Mapping[DatasetKey, DatasetTemplates]
) -> Catalogue:
    """The prompt tasks of those data sets that templates are there for.

    Raises:
      ValueError: if there are none, or two prompts get one name.
    """
    tasks: dict[str, PromptTask] = {}
    found = {(row.dataset, row.subset): row for row in rows}
    for key in sorted(set(found) & set(templates), key=lambda key: (key[0], key[1] or "")):
        for task in _prompt_tasks(found[key], templates[key]):
            if task.name in tasks:
                raise ValueError(
                    f"{task.template.where}: two prompts are called {task.name!r} as tasks; "
                    f"rename the template {task.template.name!r}."
                )
            tasks[task.name] = task
    if not tasks:
        raise ValueError("No data set of the table has templates: one of the paths is wrong.")
    missing = tuple(key for key in found if key not in templates)
    return Catalogue(tasks=tasks, missing=missing)


def task_name(dataset: str, subset: str | None, template: str, round: str = "") -> str:
    """t-zero's name of a prompt task, such as ``"super_glue_cb_can_we_infer"``."""
    name = clean("_".join([dataset, *([subset] if subset is not None else []), template]))
    return f"{name}_{round}" if round else name


def clean(name: str) -> str:
    """Runs of characters a task's name may not have become one underscore."""
    return re.sub(r"[^\w\d\._]+", "_", name)


def cap(train_size: int | None, num_templates: int, rule: CapRule = "t0_cap") -> int:
    """Examples of one prompt task that count for its mixing rate.

    ``"t0_cap"``, the code T0 was trained with: a data set of up to 500,000 examples counts in full
    *under each* of its prompts, a larger one with 500,000 divided by its number of prompts. So
    400,000 examples under ten prompts weigh 4,000,000, and 600,000 weigh 500,000.
    ``"paper"``: no prompt of any data set counts more than 500,000 divided by their number.

    Raises:
      ValueError: on an unknown rule.
    """
    size = train_size or 0
    share = MAX_EXAMPLES // num_templates
    if rule == "t0_cap":
        return share if size > MAX_EXAMPLES else size
    if rule == "paper":
        return min(size, share)
    raise ValueError(f"Unknown cap rule {rule!r}; there are 't0_cap' and 'paper'.")


def rates(
    catalogue: Catalogue, mixture: str, *, rule: CapRule = "t0_cap", exclude: bool = True
) -> dict[str, int]:
    """The prompt tasks of one of :data:`MIXTURES` with their mixing rates.

    Evaluation mixtures hold only prompts with answer choices and are evaluated in full: their rate
    is the training set's size up to 500,000, or 1 where it is not known.

    Args:
      catalogue: from :func:`load`.
      mixture: t-zero's name.
      rule: see :func:`cap`.
      exclude: leave out what T0 left out (`t0.json`).

    Raises:
      ValueError: on an unknown mixture.
    """
    excluded = set(facts()["excluded"]) if exclude else set()
    chosen = [t for t in _members(catalogue, mixture) if t.name not in excluded]
    if mixture == "t0_train_score_eval" and exclude:
        chosen = [task for task in chosen if not _is_left_out(task.name)]
    if mixture in _EVAL_MIXTURES:
        return {t.name: min(t.row.train_size or 1, MAX_EXAMPLES) for t in chosen}
    return {t.name: cap(t.row.train_size, t.num_templates, rule) for t in chosen}


def totals(catalogue: Catalogue, group: str, *, rule: CapRule = "t0_cap") -> Totals:
    """Data sets, prompts and summed rates of a training group, before anything is excluded."""
    tasks = [task for task in catalogue.tasks.values() if task.row.train_group == group]
    return Totals(
        num_datasets=len({(task.row.dataset, task.row.subset) for task in tasks}),
        num_prompts=len(tasks),
        rate=sum(cap(task.row.train_size, task.num_templates, rule) for task in tasks),
    )


@functools.cache
def facts() -> Mapping[str, Any]:
    """The content of `t0.json`: rounds, and names of tasks T0 left out."""
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def _members(catalogue: Catalogue, mixture: str) -> Iterator[PromptTask]:
    """Before exclusions, in the catalogue's order."""
    tasks = catalogue.tasks.values()
    if mixture in _TRAIN_MIXTURES:
        groups = _TRAIN_MIXTURES[mixture]
        return (task for group in groups for task in tasks if task.row.train_group == group)
    base = [task for task in tasks if task.row.train_group == "BASE"]
    original = [task for task in base if task.template.original_task]
    if mixture == "t0_train_all_og_prompts":
        return iter(original)
    if mixture == "t0_train_one_og_prompt":
        # The first by name of each data set.
        return iter({task.dataset_name: task for task in reversed(original)}.values())
    if mixture == "t0_train_score_eval":
        return (task for task in original if task.template.answer_choices)
    if mixture in _EVAL_MIXTURES:
        base_only = mixture == "t0_eval_score_eval"
        group = "BASE" if base_only else "BIAS_FAIRNESS"
        return (
            task
            for task in tasks
            if task.row.eval_group == group
            and task.template.answer_choices
            and (task.template.original_task or not base_only)
        )
    raise ValueError(f"Unknown mixture {mixture!r}; there are {MIXTURES}.")


def _is_left_out(name: str) -> bool:
    # t-zero looks for these names anywhere in a task's.
    return name in facts()["excluded_from_checkpoint_selection"] or any(
        part in name for part in facts()["names_left_out_of_checkpoint_selection"]
    )


def _prompt_tasks(row: DatasetRow, templates: DatasetTemplates) -> Iterator[PromptTask]:
    for round in facts()["rounds"].get(row.dataset, [""]):
        for name in templates.names:
            yield PromptTask(
                name=task_name(row.dataset, row.subset, name, round),
                row=row,
                template=templates[name],
                round=round,
                num_templates=len(templates.templates),
            )


def _parse(line: Mapping[str, str], where: str) -> DatasetRow:
    for column, groups in (("do_train", TRAIN_GROUPS), ("do_eval", EVAL_GROUPS)):
        if line[column] not in ("", *groups):
            raise ValueError(f"{where}: {column} must be empty or one of {groups}.")
    size = line["train_size"]
    if size and not size.isdecimal():
        raise ValueError(f"{where}: train_size must be a number or empty, got {size!r}.")
    if not line["HF_name"]:
        raise ValueError(f"{where}: HF_name is empty.")
    return DatasetRow(
        dataset=line["HF_name"],
        subset=line["subset"] or None,
        category=line["task_by_convention"],
        train_group=line["do_train"],
        eval_group=line["do_eval"],
        train_size=int(size) if size else None,
    )
