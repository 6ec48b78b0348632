"""From predictions to numbers and files: per task, category and cluster of categories, overall.

    OUTPUT_DIR/predictions.jsonl   one line per example: what the model saw, said, and should say
    OUTPUT_DIR/metrics.json        the table, with what determines it

All numbers are means over examples in percent, as Tk-Instruct reports them; `mean_over_tasks`,
`mean_over_categories` and `mean_over_clusters` weigh these equally instead, and are called by these
names, because they differ. `prompts` has mean, median and quartiles over the prompts of a task,
where it has several. `headline` is the score each collection reports of its task or category:
Tk-Instruct has exact match for some categories and ROUGE-L for the others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ul2tune.evaluation.examples import EvalExample, EvalSet
from ul2tune.evaluation.predictor import LogLikelihood
from ul2tune.metrics import registry
from ul2tune.metrics.choices import is_correct_choice, rank_choice
from ul2tune.metrics.classification import score_macro_f1
from ul2tune.metrics.spread import spread

# Both ways to rank are always reported: scores of one paper are not reproducible with the other's.
RANK_SUM, RANK_MEAN = "rank_accuracy_sum", "rank_accuracy_mean"
# By the probability of the one token that tells the choices apart, where there is one: MMLU's.
RANK_FIRST = "rank_accuracy_first_token"


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
            "cluster": example.cluster,
            "template_id": example.template_id,
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
            first = example.first_difference
            if first is not None:
                line["log_likelihood_first_token"] = [
                    round(choice.tokens[first], 4) for choice in self.choices
                ]
        return line


def judge(
    example: EvalExample, text: str, choices: Sequence[LogLikelihood], names: Sequence[str]
) -> Answer:
    """Scores one answer by the metrics called `names`, and by rank where there are choices.

    The example's own `metric_names` come on top, but for those that are ranks.
    Ranks are by sum, mean and, where one token tells the choices apart, by that token.
    """
    wanted = dict.fromkeys([*names, *(n for n in example.metric_names if n in registry.SCORES)])
    scores = {name: registry.SCORES[name](text, example.references) for name in wanted}
    if choices:
        right = [is_correct_choice(choice, example.references) for choice in example.answer_choices]
        scores[RANK_SUM] = float(right[rank_choice([c.sum for c in choices])])
        scores[RANK_MEAN] = float(right[rank_choice([c.mean for c in choices])])
        first = example.first_difference
        if first is not None:
            scores[RANK_FIRST] = float(right[rank_choice([c.tokens[first] for c in choices])])
    return Answer(example=example, text=text, choices=tuple(choices), scores=scores)


def summarize(answers: Sequence[Answer], eval_set: EvalSet, names: Sequence[str]) -> dict[str, Any]:
    """The table of `metrics.json`: overall, categories, tasks, baselines without a model."""
    tasks = _grouped(answers, lambda answer: answer.example.task)
    categories = _grouped(answers, lambda answer: answer.example.category)
    clusters = _grouped(answers, lambda answer: answer.example.cluster)
    by_task = {
        task: _means(group) | _macro_f1(group) | _declared(group, eval_set.metric_functions[task])
        for task, group in tasks.items()
    }
    by_category = {category: _means(group) for category, group in categories.items() if category}
    copied = _copied(eval_set.examples, names)
    by_cluster = {cluster: _means(group) for cluster, group in clusters.items() if cluster}
    return {
        "overall": _means(answers),
        "mean_over_tasks": _mean_of_means(by_task.values()),
        "mean_over_categories": _mean_of_means(by_category.values()),
        "mean_over_clusters": _mean_of_means(by_cluster.values()),
        "clusters": by_cluster,
        "categories": by_category,
        "tasks": by_task,
        "prompts": _over_prompts(answers),
        "headline": {
            "categories": _headlines(categories, copied, lambda example: example.category),
            "tasks": _headlines(tasks, copied, lambda example: example.task),
        },
        "baselines": {name: _means(answers) for name, answers in copied.items()},
        "num_truncated": sum(example.truncated for example in eval_set.examples),
        "split_hash": eval_set.split_hash,
        "split_hashes": dict(eval_set.split_hashes),
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


def _headlines(
    groups: Mapping[str, Sequence[Answer]],
    copied: Mapping[str, Sequence[Answer]],
    key: Callable[[EvalExample], str],
) -> dict[str, dict[str, Any]]:
    """The score each group is reported by, and what the baselines get by it.

    That is the first of its examples' `metric_names` that was computed; groups whose examples do
    not agree on it have none.
    """
    baselines = {
        name: _grouped(answers, lambda answer: key(answer.example))
        for name, answers in copied.items()
    }
    table: dict[str, dict[str, Any]] = {}
    for group, answers in groups.items():
        firsts = {
            next((n for n in answer.example.metric_names if n in answer.scores), "")
            for answer in answers
        }
        metric = firsts.pop() if len(firsts) == 1 else ""
        if not group or not metric:
            continue
        table[group] = {"metric": metric, "score": _means(answers)[metric]}
        for name, by_group in baselines.items():
            mean = _means(by_group.get(group, ()))
            table[group] |= {name: mean[metric]} if metric in mean else {}
    return table


def _over_prompts(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """How every score spreads over the prompts of a task, for tasks asked in two or more ways.

    A prompt is a template of a SeqIO task; its score is the mean over its examples in percent.
    """
    prompts: dict[str, dict[tuple[str, str], list[Answer]]] = {}
    for answer in answers:
        example = answer.example
        ways = prompts.setdefault(example.record_task or example.task, {})
        ways.setdefault((example.task, example.template_id), []).append(answer)
    table: dict[str, dict[str, Any]] = {}
    for task, ways in prompts.items():
        scores = [_means(group) for group in ways.values()]
        names = sorted({name for means in scores for name in means} - {"num_examples"})
        if len(ways) > 1:
            table[task] = {
                name: asdict(spread([means[name] for means in scores if name in means]))
                for name in names
            }
    return table


def _mean_of_means(tables: Iterable[Mapping[str, float]]) -> dict[str, float]:
    tables = list(tables)
    names = sorted({name for table in tables for name in table} - {"num_examples"})
    columns = {name: [table[name] for table in tables if name in table] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}


def _macro_f1(answers: Sequence[Answer]) -> dict[str, float]:
    """Class-wise F1 in percent of a task whose examples share their choices, by both ranks."""
    classes = {tuple(sorted(a.example.answer_choices)) if a.choices else () for a in answers}
    if len(classes) > 1 or () in classes:
        return {}
    right = [answer.example.references[0] for answer in answers]
    ranked = {
        "rank_macro_f1_sum": [rank_choice([c.sum for c in a.choices]) for a in answers],
        "rank_macro_f1_mean": [rank_choice([c.mean for c in a.choices]) for a in answers],
    }
    return {
        name: 100.0
        * score_macro_f1(
            right, [a.example.answer_choices[i] for a, i in zip(answers, chosen, strict=True)]
        )
        for name, chosen in ranked.items()
    }


def _declared(answers: Sequence[Answer], functions: Sequence[str]) -> dict[str, float]:
    """The metric functions the task itself declares, with SeqIO's signature."""
    targets = [answer.example.references for answer in answers]
    predictions = [answer.text for answer in answers]
    results: dict[str, float] = {}
    # The registry's own are `EvalConfig.metrics`, which the user chooses.
    own = {f"{registry.__name__}.{name}" for name in registry.SCORES}
    for name in (n for n in functions if n.replace(":", ".") not in own):
        results |= {k: float(v) for k, v in registry.resolve(name)(targets, predictions).items()}
    return results


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
