"""From predictions to numbers and files: per task, category and cluster of categories, overall.

    OUTPUT_DIR/predictions.jsonl   one line per example: what the model saw, said, and should say
    OUTPUT_DIR/metrics.json        the table, with what determines it

All scores are means over examples in percent, as Tk-Instruct reports them (in `predictions.jsonl`
each is between 0 and 1). `mean_over_tasks`, `mean_over_categories` and `mean_over_clusters` weigh
tasks, categories and clusters equally instead. `prompts` has mean, median and quartiles over the
prompts of a task, where it has several. `headline` is the score that a collection itself reports
for a task or category: Tk-Instruct reports exact match for some categories and ROUGE-L for the
others. `averages` are OPT-IML's and `seeds` MetaICL's, see the module `averages`; both are computed
from `results`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ul2tune import atomic, strict_json
from ul2tune.evaluation import averages, groups
from ul2tune.evaluation.answer import Answer, judge
from ul2tune.evaluation.eval_set import EvalExample, EvalSet
from ul2tune.metrics.spread import spread

# With more tasks than these, people are shown categories instead.
_MAX_TASKS_SHOWN = 30
_MAX_NAME = 40


def summarize(answers: Sequence[Answer], eval_set: EvalSet, names: Sequence[str]) -> dict[str, Any]:
    """The table of `metrics.json`: overall, categories, tasks, baselines without a model."""
    tasks = groups.grouped(answers, lambda answer: answer.example.task)
    categories = groups.grouped(answers, lambda answer: answer.example.category)
    clusters = groups.grouped(answers, lambda answer: answer.example.cluster)
    functions = eval_set.metric_functions
    by_task = {task: groups.task_scores(own, functions[task]) for task, own in tasks.items()}
    by_category = {name: groups.means(own) for name, own in categories.items() if name}
    by_cluster = {name: groups.means(own) for name, own in clusters.items() if name}
    copied = _copied(eval_set.examples, names)
    results = averages.results(answers, functions, by_task)
    return {
        "overall": groups.means(answers),
        "mean_over_tasks": groups.mean_of_means(by_task.values()),
        "mean_over_categories": groups.mean_of_means(by_category.values()),
        "mean_over_clusters": groups.mean_of_means(by_cluster.values()),
        "clusters": by_cluster,
        "categories": by_category,
        "tasks": by_task,
        "prompts": _over_prompts(answers),
        "headline": {
            "categories": _headlines(categories, by_category, copied, lambda e: e.category),
            "tasks": _headlines(tasks, by_task, copied, lambda e: e.task),
        },
        "averages": averages.average(results),
        "seeds": averages.over_seeds(results),
        "results": [result.to_json() for result in results],
        "baselines": {name: groups.means(own) for name, own in copied.items() if own[0].scores},
        "num_truncated": sum(example.truncated for example in eval_set.examples),
        "num_unfinished": sum(not answer.finished for answer in answers),
        "split_hash": eval_set.split_hash,
        "split_hashes": dict(eval_set.split_hashes),
        "data_fingerprints": dict(eval_set.fingerprints),
        "vocabulary": eval_set.vocabulary.fingerprint,
    }


def main_scores(table: Mapping[str, Any]) -> dict[str, float]:
    """Every score of :func:`summarize` by one number: over all examples; those that tasks have as a
    whole (their own metric functions, macro F1) over tasks."""
    scores = table["overall"] | {
        name: value
        for name, value in table["mean_over_tasks"].items()
        if name not in table["overall"]
    }
    return {name: value for name, value in scores.items() if name != "num_examples"}


def lines(table: Mapping[str, Any]) -> list[str]:
    """The main numbers of :func:`summarize`, in percent, as text."""
    overall, names = table["overall"], list(main_scores(table))
    groups_shown = table["tasks"]
    if len(groups_shown) > _MAX_TASKS_SHOWN:
        groups_shown = table["categories"]
    rows = dict(groups_shown) if len(groups_shown) <= _MAX_TASKS_SHOWN else {}
    rows |= {f"baseline {name}": scores for name, scores in table["baselines"].items()}
    rows |= {"mean over tasks": table["mean_over_tasks"], "all examples": overall}
    label = min(max(map(len, rows)), _MAX_NAME)
    widths = [max(len(name), 5) for name in names]
    head = "  ".join(f"{name:>{width}}" for name, width in zip(names, widths))
    text = [f"{'percent':<{label}}  {'n':>6}  {head}"]
    for row, scores in rows.items():
        shown = row if len(row) <= label else row[: label - 1] + "…"
        values = (f"{scores[name]:.1f}" if name in scores else "–" for name in names)
        cells = "  ".join(f"{value:>{width}}" for value, width in zip(values, widths))
        text.append(f"{shown:<{label}}  {scores.get('num_examples', ''):>6}  {cells}")
    number = overall["num_examples"]
    text.append(
        f"Of {number} prompts {table['num_truncated']} were cut to their length, or lost demos "
        f"to it; of {number} answers {table['num_unfinished']} did not end within the longest "
        f"allowed."
    )
    return text


def write_predictions(output_dir: str | Path, answers: Sequence[Answer], split_hash: str) -> None:
    """Writes `predictions.jsonl`; a reader sees the old file or the whole new one.

    An older `metrics.json` is deleted after the new answers are on disk, so that a full disk loses
    nothing, and before they take their name, so that it never stands beside answers it is not of.
    """
    lines = [json.dumps(answer.to_json(split_hash), ensure_ascii=False) for answer in answers]
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.new_file(folder / "predictions.jsonl") as new, new.open("wb") as file:
        file.write("".join(line + "\n" for line in lines).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())  # a full disk may show only now
        (folder / "metrics.json").unlink(missing_ok=True)


def write_table(output_dir: str | Path, table: Mapping[str, Any]) -> None:
    """Writes `metrics.json` beside the predictions, as a whole. What is NaN, as a correlation of
    equal answers, is null there."""
    text = json.dumps(strict_json.finite(table), ensure_ascii=False, indent=1, sort_keys=True)
    atomic.write_text(Path(output_dir) / "metrics.json", text + "\n")


def _headlines(
    by_group: Mapping[str, Sequence[Answer]],
    tables: Mapping[str, Mapping[str, float]],
    copied: Mapping[str, Sequence[Answer]],
    key: Callable[[EvalExample], str],
) -> dict[str, dict[str, Any]]:
    """The score each group is reported by (`groups.headline`), and what the baselines get by it."""
    baselines = {
        name: groups.grouped(answers, lambda answer: key(answer.example))
        for name, answers in copied.items()
    }
    headlines: dict[str, dict[str, Any]] = {}
    for group, scores in tables.items():
        metric = groups.headline(by_group[group], scores)
        if not group or not metric:
            continue
        headlines[group] = {"metric": metric, "score": scores[metric]}
        for name, answers in baselines.items():
            mean = groups.means(answers.get(group, ()))
            headlines[group] |= {name: mean[metric]} if metric in mean else {}
    return headlines


def _over_prompts(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """How every score spreads over the prompts of a task, for tasks asked in two or more ways.

    A prompt is a template of a SeqIO task; its score is the mean over its examples in percent.
    Tasks that are asked with several seeds are in `seeds` instead.
    """
    prompts: dict[str, dict[tuple[str, str], list[Answer]]] = {}
    seeds: dict[str, set[str]] = {}
    for answer in answers:
        example = answer.example
        task = example.record_task or example.task
        ways = prompts.setdefault(task, {})
        ways.setdefault((example.task, example.template_id), []).append(answer)
        seeds.setdefault(task, set()).add(example.seed)
    table: dict[str, dict[str, Any]] = {}
    for task, ways in prompts.items():
        scores = [groups.means(group) for group in ways.values()]
        names = sorted({name for means in scores for name in means} - {"num_examples"})
        if len(ways) > 1 and len(seeds[task]) == 1:
            table[task] = {
                name: asdict(spread([means[name] for means in scores if name in means]))
                for name in names
            }
    return table


def _copied(examples: Sequence[EvalExample], names: Sequence[str]) -> dict[str, list[Answer]]:
    """Answers that copy input or demo (Wang et al. 2022, §5), of the examples that name them."""
    return {
        baseline: [
            judge(e, (e.baselines or {})[baseline], (), names)
            for e in examples
            if baseline in (e.baselines or {})
        ]
        for baseline in sorted({name for e in examples for name in e.baselines or ()})
    }
