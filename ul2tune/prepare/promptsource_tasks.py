"""Registering PromptSource's prompts and T0's mixtures over rows of your own.

    register_t0("promptsource/templates", "rows", "t-zero/t0/datasets.csv")

registers a task per data set and template, named as t-zero does (``super_glue_cb_can_we_infer``),
and the mixtures of `ul2tune.instructions.promptsource.t0.MIXTURES`. Layout of the rows:
`ul2tune.instructions.promptsource.rows`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import seqio

from ul2tune.first_names import first_names
from ul2tune.instructions.promptsource import rows as promptsource_rows
from ul2tune.instructions.promptsource import t0
from ul2tune.instructions.promptsource import templates as promptsource
from ul2tune.instructions.promptsource.rows import PromptedRows
from ul2tune.instructions.records import Renderer
from ul2tune.prepare.record_tasks import register_record_task
from ul2tune.prepare.tasks import VocabularyLike


def register_promptsource(
    templates: str | Path,
    rows: str | Path,
    *,
    name: str = "promptsource",
    vocabulary: VocabularyLike = "stdlib",
    seed: int = 0,
) -> str:
    """Registers every template of every data set there are rows of, and a mixture of all.

    In the mixture, every prompt counts as often as its task has examples.

    Args:
      templates: folder with `templates.yaml` files, or one such file.
      rows: folder of rows, ``<dataset>[/<subset>]/<split>.jsonl[.gz]``.
      name: of the mixture.
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`.
      seed: of the templates' draws.

    Returns:
      the mixture's name.

    Raises:
      ValueError: if a file is malformed, or no data set has both templates and rows.
    """
    path = Path(templates)
    loaded = (
        [promptsource.load(path)] if path.is_file() else promptsource.load_folder(path).values()
    )
    names: list[str] = []
    for dataset in loaded:
        found = promptsource_rows.find_rows(rows, dataset.dataset, dataset.subset)
        if not found:
            continue
        shared = t0.clean("_".join(p for p in (dataset.dataset, dataset.subset) if p))
        for template in dataset.templates:
            task = t0.task_name(dataset.dataset, dataset.subset, template.name)
            corpus = PromptedRows(
                name=task, dataset_name=shared, template=template, row_files=found, seed=seed
            )
            _register(task, corpus, vocabulary, seed)
            names.append(task)
    if not names:
        raise ValueError(f"{rows} has no rows of any data set that {templates} has templates for.")
    seqio.MixtureRegistry.add(name, names, default_rate=seqio.mixing_rate_num_examples)
    return name


def register_t0(
    templates: str | Path,
    rows: str | Path,
    datasets_csv: str | Path,
    *,
    rule: t0.CapRule = "t0_cap",
    vocabulary: VocabularyLike = "stdlib",
    seed: int = 0,
) -> tuple[str, ...]:
    """Registers the prompt tasks of T0 that there are rows of, and T0's mixtures of them.

    Data sets without rows are left out of the mixtures with a note; mixtures without any data set
    are not registered. An evaluation mixture holds the tasks themselves: `ul2tune evaluate` ranks
    their answer choices.

    Args:
      templates: your copy of `promptsource/templates`.
      rows: as for :func:`register_promptsource`.
      datasets_csv: your copy of `t0/datasets.csv`.
      rule: see `ul2tune.instructions.promptsource.t0.cap`.
      vocabulary, seed: as for :func:`register_promptsource`.

    Returns:
      the names of the mixtures registered.

    Raises:
      ValueError: if a file is malformed, or there are rows of none of the data sets.
    """
    catalogue = t0.load(datasets_csv=datasets_csv, templates=templates)
    splits = _register_tasks(catalogue, rows, vocabulary, seed)
    if not splits:
        raise ValueError(f"{rows} has no rows of any data set of {datasets_csv}.")
    mixtures = []
    for mixture in t0.MIXTURES:
        rates = t0.rates(catalogue, mixture, rule=rule)
        evaluates = mixture.endswith("_score_eval")
        present = [(n, float(r)) for n, r in rates.items() if _serves(splits.get(n, ()), evaluates)]
        if present and sum(rate for _, rate in present) > 0:
            seqio.MixtureRegistry.add(mixture, present)
            mixtures.append(mixture)
        _note(catalogue, mixture, rates, dict(present))
    return tuple(mixtures)


def as_rendered(tokenizer: object) -> Renderer:
    """Records of `promptsource.rows` need no further rendering."""
    del tokenizer
    return promptsource_rows.render


def _register_tasks(
    catalogue: t0.Catalogue, rows: str | Path, vocabulary: VocabularyLike, seed: int
) -> dict[str, tuple[str, ...]]:
    """Task -> splits, of the tasks registered."""
    splits: dict[str, tuple[str, ...]] = {}
    for name, task in catalogue.tasks.items():
        row = task.row
        found = promptsource_rows.find_rows(rows, row.dataset, row.subset, task.round)
        if not found:
            continue
        corpus = PromptedRows(
            name=name,
            dataset_name=task.dataset_name,
            template=task.template,
            row_files=found,
            category=row.category,
            held_out=bool(row.eval_group) and not row.train_group,
            seed=seed,
        )
        _register(name, corpus, vocabulary, seed)
        splits[name] = corpus.splits
    return splits


def _serves(splits: tuple[str, ...], evaluates: bool) -> bool:
    """Whether there is a split to train on, or any other to evaluate: some have "test" alone."""
    return any(split != "train" for split in splits) if evaluates else "train" in splits


def _register(name: str, corpus: PromptedRows, vocabulary: VocabularyLike, seed: int) -> None:
    # As T0: inputs do not end with end of sequence.
    register_record_task(
        name, corpus, as_rendered, vocabulary=vocabulary, seed=seed, eos=("targets",)
    )


def _note(
    catalogue: t0.Catalogue,
    mixture: str,
    rates: Mapping[str, int],
    present: Mapping[str, float],
) -> None:
    def datasets(names) -> set[str]:
        return {catalogue.tasks[name].dataset_name for name in names}

    absent = datasets(rates) - datasets(present)
    if absent:
        print(
            f"Note: mixture {mixture} has {len(datasets(present))} of its {len(datasets(rates))} "
            f"data sets; there are no rows of {first_names(sorted(absent), 3)}.",
            file=sys.stderr,
        )
