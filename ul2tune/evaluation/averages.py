"""Averages over prompts, tasks, categories, shots and seeds, of one evaluation or of several.

A *result* is what one prompt of one task scored (`metrics.prompt_result`). `metrics.json` lists
them, so that 0-shot and 5-shot evaluations, or those of several mixtures, can be averaged together
later (:func:`combine`):

    ul2tune evaluate runs/mine/eval_0_shot runs/mine/eval_5_shot

Every score is averaged under its own name; `headline` is whichever score its collection reports
(accuracy where there are answer choices, else exact match or ROUGE-L): OPT-IML's one number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.evaluation import groups
from ul2tune.evaluation.answer import Answer
from ul2tune.evaluation.eval_set import MetricFunctions
from ul2tune.instructions import reading
from ul2tune.metrics import aggregate, classification
from ul2tune.metrics.prompt_result import PromptResult

HEADLINE = "headline"
# What a file for `combine` may say of a task, and what must be equal in the outputs it combines.
_TASK_KEYS = frozenset({"task", "category", "split_level"})
_SAME = ("checkpoint", "step", "vocabulary")


def results(
    answers: Sequence[Answer],
    metric_functions: Mapping[str, MetricFunctions],
    of_tasks: Mapping[str, Mapping[str, float]],
) -> list[PromptResult]:
    """The results of one evaluation, in the order of its tasks.

    Args:
      answers: of all examples.
      metric_functions: by SeqIO task. Those of SeqIO's Evaluator are of a whole task: they may
        fail on the part that one prompt has, and are left out there.
      of_tasks: `groups.task_scores` of SeqIO tasks, which are those of their only prompt.
    """
    sizes = Counter(answer.example.task for answer in answers)
    prompts: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in answers:
        example = answer.example
        key = (example.task, example.record_task, example.template_id)
        prompts.setdefault(key, []).append(answer)
    found = []
    for (name, record_task, template), own in prompts.items():
        functions = metric_functions[name]
        if len(own) == sizes[name]:
            scores = dict(of_tasks[name])
        else:
            whole_only = isinstance(functions, SeqioMetrics)
            scores = groups.task_scores(own, () if whole_only else functions)
        if headline := groups.headline(own, scores):
            scores[HEADLINE] = scores[headline]
        number = int(scores.pop("num_examples"))
        first = own[0].example
        found.append(
            PromptResult(
                prompt=f"{name}/{template}" if template else name,
                task=record_task or name,
                category=first.category,
                benchmark=first.benchmark,
                split_level=first.split_level,
                shots=max(len(answer.example.demo_ids) for answer in own),
                seed=first.seed,
                num_examples=number,
                scores=scores,
            )
        )
    return found


def average(found: Sequence[PromptResult]) -> dict[str, Any]:
    """OPT-IML's averages (`metrics.aggregate`): of all results, and of each split level.

    What cannot be averaged, such as a task in two categories, is said in `notes` in their place:
    the evaluation itself stands.
    """
    levels: dict[str, list[PromptResult]] = {}
    for result in found:
        if result.split_level:
            levels.setdefault(result.split_level, []).append(result)
    return {
        "all": _averages(found),
        "split_levels": {level: _averages(levels[level]) for level in sorted(levels)},
    }


def over_seeds(found: Sequence[PromptResult]) -> dict[str, Any]:
    """MetaICL's two numbers, for the tasks that were asked with several seeds; else empty.

    `tasks` has average and worst of each score of a task. Over tasks, `average` is the mean of
    their averages and `worst` that of their worst; `worst_seed` is the mean over tasks under the
    seed that is worst for all of them together.
    """
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for result in found:
        for name, score in result.scores.items():
            seeds = values.setdefault(result.task, {}).setdefault(name, {})
            seeds.setdefault(result.seed, []).append(score)
    tasks: dict[str, dict[str, Any]] = {}
    by_seed: dict[str, dict[str, list[float]]] = {}
    for task, names in values.items():
        for name, seeds in names.items():
            if len(seeds) < 2:
                continue
            means = {seed: sum(scores) / len(scores) for seed, scores in seeds.items()}
            tasks.setdefault(task, {})[name] = classification.over_seeds(means)
            for seed, mean in means.items():
                by_seed.setdefault(name, {}).setdefault(seed, []).append(mean)
    overall = {}
    for name, seeds in by_seed.items():
        own = [scores[name] for scores in tasks.values() if name in scores]
        overall[name] = {
            "average": sum(one["average"] for one in own) / len(own),
            "worst": sum(one["worst"] for one in own) / len(own),
            "worst_seed": min(sum(means) / len(means) for means in seeds.values()),
            "num_tasks": len(own),
        }
    return {"mean_over_tasks": overall, "tasks": tasks} if tasks else {}


def combine(outputs: Sequence[str | Path], tasks_file: str | Path | None = None) -> dict[str, Any]:
    """Averages the results of several evaluations of one checkpoint.

    Args:
      outputs: EVAL_OUTPUT_DIRs, or their `metrics.json`.
      tasks_file: JSON, ``{name: {"task": …, "category": …, "split_level": …}}``: what to call a
        record task, which merges those of one name (sub-tasks, spellings of two benchmarks), its
        category and its level; what is left out stays.

    Returns:
      `averages`, `seeds` and `results` as in `metrics.json`, with `outputs`, `step`, `checkpoint`.

    Raises:
      ValueError: if an output is of another checkpoint, has no results, or the file is malformed.
    """
    if len(set(map(str, outputs))) < len(outputs):
        raise ValueError(f"An output is named twice: {', '.join(map(str, outputs))}.")
    tables = {str(path): _read(path) for path in outputs}
    (first, one), *others = tables.items()
    for path, table in others:
        for name in _SAME:
            if table.get(name) != one.get(name):
                raise ValueError(
                    f"{path} has {name} = {table.get(name)!r}, {first} has {one.get(name)!r}: "
                    f"average evaluations of one checkpoint."
                )
    found = [row for table in tables.values() for row in table["results"]]
    notes = []
    if tasks_file is not None:
        changes = _read_tasks(tasks_file)
        absent = sorted(set(changes) - {result.task for result in found})
        if absent:
            notes.append(f"{tasks_file} names {absent[0]!r} ({len(absent)} such): not evaluated.")
        found = [_changed(result, changes.get(result.task, {})) for result in found]
    return {
        "outputs": list(tables),
        **{name: one.get(name) for name in _SAME},
        "notes": notes,
        "averages": average(found),
        "seeds": over_seeds(found),
        "results": [result.to_json() for result in found],
    }


def lines(table: Mapping[str, Any]) -> list[str]:
    """The means of :func:`combine` as text: over categories by shots, and over shots."""
    text = list(table["notes"])
    levels = table["averages"]["split_levels"]
    parts = levels if len(levels) == 1 else {"all": table["averages"]["all"], **levels}
    for name, report in parts.items():
        text += [f"{name}: {note}" for note in report["notes"]]
        for score, mean in report.get("mean_over_shots", {}).items():
            by_shots = [
                f"{shots}-shot {own['mean_over_categories'][score]:.2f}"
                for shots, own in report["shots"].items()
                if score in own["mean_over_categories"]
            ]
            text.append(f"{name}  {score}: {mean:.2f}  ({', '.join(by_shots)})")
    for score, own in table["seeds"].get("mean_over_tasks", {}).items():
        text.append(
            f"seeds  {score}: average {own['average']:.2f}, worst {own['worst']:.2f} "
            f"({own['num_tasks']} tasks)"
        )
    return text


def _averages(found: Sequence[PromptResult]) -> dict[str, Any]:
    try:
        return aggregate.aggregate(found)
    except ValueError as error:
        return {"notes": [str(error)]}


def _changed(result: PromptResult, changes: Mapping[str, str]) -> PromptResult:
    subtask = result.task if changes.get("task", result.task) != result.task else ""
    return replace(result, subtask=subtask, **changes)


def _read(output: str | Path) -> dict[str, Any]:
    path = Path(output)
    path = path / "metrics.json" if path.is_dir() else path
    table = reading.read_json(path)
    rows = table.get("results") if isinstance(table, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} has no 'results': it is not from this version's `evaluate`.")
    found = [
        PromptResult.from_json(row, f"{path}: result {number}")
        for number, row in enumerate(rows, start=1)
    ]
    return {**table, "results": found}


def _read_tasks(path: str | Path) -> dict[str, dict[str, str]]:
    data = reading.read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected an object of tasks, got {type(data).__name__}.")
    for task, changes in data.items():
        if not isinstance(changes, dict) or not set(changes) <= _TASK_KEYS:
            raise ValueError(
                f"{path}: {task!r} must be an object with some of {sorted(_TASK_KEYS)}, got "
                f"{changes!r:.80}."
            )
        if not all(isinstance(value, str) for value in changes.values()):
            raise ValueError(f"{path}: {task!r} must have strings as values, got {changes!r:.80}.")
    return data
