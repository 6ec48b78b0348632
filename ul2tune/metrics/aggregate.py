"""OPT-IML's averages: prompts -> task -> category -> shots (section 5).

One number per (prompt, shots) is not comparable between tasks with two prompts and tasks with
twenty, nor between categories with one task and with thirty. So every step is a plain mean:

    prompts of a task  ->  task (its sub-tasks, and the same task of other benchmarks, merged)
      ->  category  ->  mean over categories, for each number of shots  ->  mean over shots

Each score has its own name all the way: accuracy by summed and by length-normalised likelihood
(`rank_accuracy_sum`, `rank_accuracy_mean`) differ, and results are not reproducible with the other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from ul2tune.metrics.prompt_result import PromptResult


def aggregate(results: Sequence[PromptResult]) -> dict[str, Any]:
    """Averages in OPT-IML's order.

    Returns:
      JSON: `shots`, by number of shots, with `tasks`, `categories` and `mean_over_categories`;
      `mean_over_shots`, over the numbers of shots that have the score: what OPT-IML selects models
      by; `notes` on what is incomplete, such as tasks that only some numbers of shots have.

    Raises:
      ValueError: if there is nothing, a prompt comes twice, or a task is in two categories.
    """
    _check(results)
    by_shots = {}
    for shots in sorted({result.shots for result in results}):
        own = [result for result in results if result.shots == shots]
        by_shots[str(shots)] = _table(own)
    return {
        "mean_over_shots": mean([table["mean_over_categories"] for table in by_shots.values()]),
        "notes": list(_notes(results)),
        "shots": by_shots,
    }


def _table(results: Sequence[PromptResult]) -> dict[str, Any]:
    # A task of two benchmarks counts once: each benchmark's version is a part, as a sub-task is.
    parts = _means(results, lambda r: (r.task, r.benchmark, r.subtask), lambda r: r.scores)
    tasks = _means(list(parts.items()), lambda item: item[0][0], lambda item: item[1])
    category = {result.task: result.category for result in results}
    categories = _means(list(tasks.items()), lambda item: category[item[0]], lambda item: item[1])
    return {
        "mean_over_categories": mean(list(categories.values())),
        "categories": categories,
        "tasks": tasks,
    }


def _means(
    items: Iterable[Any],
    key: Callable[[Any], Hashable],
    scores: Callable[[Any], Mapping[str, float]],
) -> dict[Any, dict[str, float]]:
    groups: dict[Any, list[Mapping[str, float]]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(scores(item))
    return {name: mean(groups[name]) for name in sorted(groups, key=str)}


def mean(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every score over the tables that have it."""
    names = sorted({name for table in tables for name in table})
    columns = {name: [table[name] for table in tables if name in table] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}


def _check(results: Sequence[PromptResult]) -> None:
    if not results:
        raise ValueError("There are no results to aggregate.")
    seen: set[Hashable] = set()
    categories: dict[str, str] = {}
    for r in results:
        key = (r.benchmark, r.task, r.subtask, r.prompt, r.shots)
        if key in seen:
            raise ValueError(
                f"Prompt {r.prompt!r} of task {r.task!r} ({r.shots} shots) has two results."
            )
        seen.add(key)
        if categories.setdefault(r.task, r.category) != r.category:
            raise ValueError(
                f"Task {r.task!r} is in categories {categories[r.task]!r} and {r.category!r}: "
                "merge only tasks of one category."
            )


def _notes(results: Sequence[PromptResult]) -> Iterable[str]:
    by_shots: dict[int, set[str]] = {}
    for result in results:
        by_shots.setdefault(result.shots, set()).add(result.task)
    everything = set().union(*by_shots.values())
    for shots, tasks in sorted(by_shots.items()):
        if missing := sorted(everything - tasks):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            yield f"{missing[0]}{more} has no {shots}-shot result: the means differ in their tasks."
