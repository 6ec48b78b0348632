"""Registering UnifiedSKG's tasks from a folder of their files (`instructions.skg.files`)."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import seqio

from ul2tune.data.policies import Proportional
from ul2tune.data.rates import Group, Leaf
from ul2tune.instructions.records import Renderer
from ul2tune.instructions.skg import config as skg_config
from ul2tune.instructions.skg import files as skg_files
from ul2tune.instructions.skg import render
from ul2tune.instructions.skg.config import RunConfig, TaskConfig
from ul2tune.instructions.skg.files import SkgFiles
from ul2tune.instructions.skg.prompt import ADDED_TOKENS, Knowledge
from ul2tune.instructions.skg.values import DatabaseValues
from ul2tune.instructions.tokenizer import Tokenizer
from ul2tune.metrics import registry
from ul2tune.metrics.bleu import corpus_bleu
from ul2tune.metrics.denotation import all_ex
from ul2tune.metrics.dialogue_state import multiwoz
from ul2tune.metrics.registry import MetricFn
from ul2tune.metrics.spider import spider_exact_match
from ul2tune.metrics.tabfact import tabfact_accuracy
from ul2tune.prepare.mixtures import register_mixture
from ul2tune.prepare.record_tasks import register_record_task
from ul2tune.prepare.tasks import VocabularyLike

METRICS: Mapping[str, Sequence[MetricFn]] = {
    "wikitq": (all_ex,),
    "tab_fact": (tabfact_accuracy,),
    "dart": (corpus_bleu,),
    "spider": (spider_exact_match,),
    "multiwoz": (multiwoz,),
}
# The five tasks that can be read, as UnifiedSKG's run over all 21 tasks has them.
DEFAULT_RUN = RunConfig(
    tasks={
        "wikitq": TaskConfig(
            name="wikitq", kind="wikitq", description="task: wiki table question", table_tokens=1024
        ),
        "tab_fact": TaskConfig(
            name="tab_fact", kind="tab_fact", description="task: tabfact", table_tokens=1024
        ),
        "dart": TaskConfig(name="dart", kind="dart", description="task: dart"),
        "spider": TaskConfig(
            name="spider_with_cell", kind="spider", description="task: spider", cell_values=True
        ),
        "multiwoz": TaskConfig(name="multiwoz", kind="multiwoz", description="task: multiwoz"),
    },
    describe=True,
    temperature=2.0,
    added_tokens=ADDED_TOKENS,
)


def register_unifiedskg(
    folder: str | Path,
    *,
    name: str = "unifiedskg",
    config: str | Path | RunConfig = DEFAULT_RUN,
    vocabulary: VocabularyLike = "stdlib",
    carve: float = 0.0,
    seed: int = 0,
) -> tuple[str, ...]:
    """Registers a task per data set that is there, and the mixtures `name` and `<name>_eval`.

    The mixture of the tasks that have a training split draws from each in proportion to
    n^(1/temperature), n being its training examples. Tasks whose files are absent, and kinds that
    cannot be read, are left out with a note.

    Args:
      folder: your files.
      name: of the mixture, and prefix of the tasks' names.
      config: a run of UnifiedSKG's (`configure/Salesforce/….cfg`), or one of your own.
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`. Runs want `config.added_tokens`
        added to T5's (see docs/unifiedskg.md).
      carve: `SkgFiles.carve`, for data sets without a training file.
      seed: of all draws.

    Returns:
      The names of the tasks.

    Raises:
      ValueError: if the folder has none of the tasks, or files or configuration are malformed.
    """
    run = config if isinstance(config, RunConfig) else skg_config.load_run(config)
    folder, found = Path(folder), {}
    for key, task in run.tasks.items():
        files = skg_files.find(folder, task, carve=carve, seed=seed)
        if files.files:
            found[f"{name}_{key}"] = _with_databases(files, folder)
    if not found:
        raise ValueError(f"{folder} has files of none of the tasks {', '.join(run.tasks)}.")
    if absent := [key for key in run.tasks if f"{name}_{key}" not in found]:
        _note(f"no files in {folder} for {', '.join(absent)}; left out.")
    values = DatabaseValues(folder / "spider" / "database")
    for task_name, files in found.items():
        renderer = functools.partial(
            _bind,
            task=files.task,
            describe=run.describe,
            knowledge=run.knowledge,
            values=values if files.task.cell_values else None,
        )
        register_record_task(
            task_name,
            files,
            renderer,
            vocabulary=vocabulary,
            seed=seed,
            metric_fns=_metrics(files.task),
        )
    _register_mixtures(name, found, run.temperature)
    return tuple(found)


def _register_mixtures(name: str, found: Mapping[str, SkgFiles], temperature: float) -> None:
    trained = [task for task, files in found.items() if "train" in files.splits]
    evaluated = [task for task, files in found.items() if "validation" in files.splits]
    if trained:
        leaves = tuple(Leaf(name=task) for task in trained)
        policy = Proportional(temperature=temperature)
        register_mixture(Group(name=name, policy=policy, children=leaves))
    else:
        _note(
            f"no training files, so there is no mixture {name!r}; `carve` makes some "
            "(UL2TUNE_UNIFIEDSKG_CARVE=0.8)."
        )
    if evaluated:
        seqio.MixtureRegistry.add(f"{name}_eval", evaluated, default_rate=1.0)


def _with_databases(files: SkgFiles, folder: Path) -> SkgFiles:
    if files.task.kind != "spider" or not files.task.cell_values:
        return files
    if (folder / "spider" / "database").is_dir():
        return files
    _note(f"{folder}/spider/database is absent: schemas mention no cell values.")
    return replace(files, task=replace(files.task, cell_values=False))


def _metrics(task: TaskConfig) -> Sequence[MetricFn]:
    return (registry.exact_match,) if task.separate_slots else METRICS[task.kind]


def _bind(
    tokenizer: Tokenizer,
    *,
    task: TaskConfig,
    describe: bool,
    knowledge: Knowledge,
    values: DatabaseValues | None,
) -> Renderer:
    return functools.partial(
        render.render,
        tokenizer=tokenizer,
        task=task,
        describe=describe,
        knowledge=knowledge,
        values=values,
    )


def _note(text: str) -> None:
    print(f"Note: UnifiedSKG: {text}", file=sys.stderr)
