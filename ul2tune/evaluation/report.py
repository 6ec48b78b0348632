"""From predictions to numbers and files: per task, per category, overall.

    OUTPUT_DIR/predictions.jsonl   one line per example: what the model saw, said, and should say
    OUTPUT_DIR/metrics.json        the table, with what determines it

All numbers are means over examples in percent, as Tk-Instruct reports them; `mean_over_tasks` and
`mean_over_categories` weigh tasks and categories equally instead, and are called by these names,
because the three differ.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune.evaluation.examples import EvalExample, EvalSet
from ul2tune.evaluation.predictor import LogLikelihood
from ul2tune.metrics import registry
from ul2tune.metrics.choices import is_correct_choice, rank_choice

# Both ways to rank are always reported: scores of one paper are not reproducible with the other's.
RANK_SUM, RANK_MEAN = "rank_accuracy_sum", "rank_accuracy_mean"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model made of one example.

    Attributes:
      example: the question.
      text: generated.
      choices: log-likelihood of each answer choice, in their order; empty if there are none.
      scores: metric -> number in [0, 1].
    """

    example: EvalExample
    text: str
    choices: tuple[LogLikelihood, ...]
    scores: Mapping[str, float]

    def to_json(self, split_hash: str) -> dict[str, Any]:
        """One line of `predictions.jsonl`."""
        example = self.example
        line: dict[str, Any] = {
            "task": example.task,
            "id": example.id,
            "category": example.category,
            "split_hash": split_hash,
            "prompt": example.inputs_text,
            "truncated": example.truncated,
            "demo_ids": list(example.demo_ids),
            "references": list(example.references),
            "prediction": self.text,
            "scores": dict(self.scores),
        }
        if self.choices:
            line["answer_choices"] = [choice.strip() for choice in example.answer_choices]
            line["log_likelihood_sum"] = [round(choice.sum, 4) for choice in self.choices]
            line["log_likelihood_mean"] = [round(choice.mean, 4) for choice in self.choices]
        return line


def judge(
    example: EvalExample, text: str, choices: Sequence[LogLikelihood], names: Sequence[str]
) -> Answer:
    """Scores one answer by the metrics called `names`, and by rank where there are choices."""
    scores = {name: registry.SCORES[name](text, example.references) for name in names}
    if choices:
        right = [is_correct_choice(choice, example.references) for choice in example.answer_choices]
        scores[RANK_SUM] = float(right[rank_choice([c.sum for c in choices])])
        scores[RANK_MEAN] = float(right[rank_choice([c.mean for c in choices])])
    return Answer(example=example, text=text, choices=tuple(choices), scores=scores)


def summarize(answers: Sequence[Answer], eval_set: EvalSet, names: Sequence[str]) -> dict[str, Any]:
    """The table of `metrics.json`: overall, categories, tasks, baselines without a model."""
    tasks = _grouped(answers, lambda answer: answer.example.task)
    categories = _grouped(answers, lambda answer: answer.example.category)
    by_task = {
        task: _means(group) | _declared(group, eval_set.metric_functions[task])
        for task, group in tasks.items()
    }
    by_category = {category: _means(group) for category, group in categories.items() if category}
    return {
        "overall": _means(answers),
        "mean_over_tasks": _mean_of_means(by_task.values()),
        "mean_over_categories": _mean_of_means(by_category.values()),
        "categories": by_category,
        "tasks": by_task,
        "baselines": _baselines(eval_set.examples, names),
        "num_truncated": sum(example.truncated for example in eval_set.examples),
        "split_hash": eval_set.split_hash,
        "data_fingerprints": dict(eval_set.fingerprints),
        "vocabulary": eval_set.vocabulary.fingerprint,
    }


def write(output_dir: str | Path, answers: Sequence[Answer], table: Mapping[str, Any]) -> None:
    """Writes both files; a reader sees old ones or whole new ones. `metrics.json` comes last."""
    lines = [
        json.dumps(answer.to_json(table["split_hash"]), ensure_ascii=False) for answer in answers
    ]
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "predictions.jsonl", "".join(line + "\n" for line in lines))
    text = json.dumps(table, ensure_ascii=False, indent=1, sort_keys=True)
    write_atomically(folder / "metrics.json", text + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file under another name and renames it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _grouped(answers: Sequence[Answer], key) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(key(answer), []).append(answer)
    return groups


def _means(answers: Sequence[Answer]) -> dict[str, float]:
    """Means in percent of every score some of the answers have, over those that have it."""
    table: dict[str, float] = {"num_examples": len(answers)}
    for name in sorted({name for answer in answers for name in answer.scores}):
        values = [answer.scores[name] for answer in answers if name in answer.scores]
        table[name] = 100.0 * sum(values) / len(values)
    return table


def _mean_of_means(tables: Iterable[Mapping[str, float]]) -> dict[str, float]:
    tables = list(tables)
    names = sorted({name for table in tables for name in table} - {"num_examples"})
    columns = {name: [table[name] for table in tables if name in table] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}


def _declared(answers: Sequence[Answer], functions: Sequence[str]) -> dict[str, float]:
    """The metric functions the task itself declares, with SeqIO's signature."""
    targets = [list(answer.example.references) for answer in answers]
    predictions = [answer.text for answer in answers]
    results: dict[str, float] = {}
    # The registry's own are `EvalConfig.metrics`, which the user chooses.
    own = {f"{registry.__name__}.{name}" for name in registry.SCORES}
    for name in (n for n in functions if n.replace(":", ".") not in own):
        results |= {k: float(v) for k, v in registry.resolve(name)(targets, predictions).items()}
    return results


def _baselines(examples: Sequence[EvalExample], names: Sequence[str]) -> dict[str, Any]:
    """Scores of copying input or demo (Wang et al. 2022, §5), over the examples that name them."""
    table: dict[str, Any] = {}
    for baseline in sorted({name for e in examples for name in e.baselines or ()}):
        known = [e for e in examples if baseline in (e.baselines or {})]
        answers = [judge(e, (e.baselines or {})[baseline], (), names) for e in known]
        table[baseline] = _means(answers)
    return table
