"""Scores of a group of answers, in percent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.evaluation import seqio_metrics
from ul2tune.evaluation.answer import Answer
from ul2tune.evaluation.eval_set import MetricFunctions
from ul2tune.metrics import aggregate, registry
from ul2tune.metrics.choices import rank_choice
from ul2tune.metrics.classification import score_macro_f1

# Beside the scores of a table: how many answers they are of.
NUMBER = "num_examples"


def grouped(answers: Sequence[Answer], key: Callable[[Answer], str]) -> dict[str, list[Answer]]:
    """Answers by key, both in their order."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(key(answer), []).append(answer)
    return groups


def means(answers: Sequence[Answer]) -> dict[str, float]:
    """Means in percent of every score some of the answers have, over those that have it."""
    table: dict[str, float] = {NUMBER: len(answers)}
    for name in sorted({name for answer in answers for name in answer.scores}):
        values = [answer.scores[name] for answer in answers if name in answer.scores]
        table[name] = 100.0 * sum(values) / len(values)
    return table


def mean_of_means(tables: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every score over the tables that have it."""
    found = aggregate.mean(list(tables))
    found.pop(NUMBER, None)
    return found


def task_scores(answers: Sequence[Answer], functions: MetricFunctions) -> dict[str, float]:
    """All scores of a task's answers: means, class-wise F1, and its own metric functions."""
    return means(answers) | macro_f1(answers) | declared(answers, functions)


def headline(answers: Sequence[Answer], table: Mapping[str, float]) -> str:
    """The score the answers' collection reports: the first of their `metric_names` in the table.

    Empty if there is none, or the answers do not agree.
    """
    firsts = {
        next((name for name in answer.example.metric_names if name in table), "")
        for answer in answers
    }
    return firsts.pop() if len(firsts) == 1 else ""


def macro_f1(answers: Sequence[Answer]) -> dict[str, float]:
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


def declared(answers: Sequence[Answer], functions: MetricFunctions) -> dict[str, float]:
    """The metric functions the task itself declares, with SeqIO's signature.

    Raises:
      ValueError: naming the task and the function that fails, or a name that is taken.
    """
    if isinstance(functions, SeqioMetrics):
        found = seqio_metrics.compute(answers, functions)
    else:
        found = _of_texts(answers, functions)
    if NUMBER in found:
        raise ValueError(
            f"Task {answers[0].example.task!r} cannot be scored: one of its metric functions gives "
            f"{NUMBER!r}, which is how many examples there are. Name it otherwise."
        )
    return found


def _of_texts(answers: Sequence[Answer], functions: Sequence[str]) -> dict[str, float]:
    targets = [answer.example.references for answer in answers]
    predictions = [answer.text for answer in answers]
    results: dict[str, float] = {}
    # The registry's own are `EvalConfig.metrics`, which the user chooses.
    own = {f"{registry.__name__}.{name}" for name in registry.SCORES}
    for name in (n for n in functions if n.replace(":", ".") not in own):
        try:
            found = registry.resolve(name)(targets, predictions)
            numbers = {key: float(value) for key, value in found.items()}
        except Exception as error:  # a function of the user's may raise anything
            why = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise ValueError(
                f"Task {answers[0].example.task!r} cannot be scored by its metric function "
                f"{name!r}: {why}{error}"
            ) from error
        add(results, numbers, answers[0].example.task, name)
    return results


def add(results: dict[str, float], found: Mapping[str, float], task: str, function: str) -> None:
    """Adds what one of a task's metric functions gives to what others gave.

    Raises:
      ValueError: for a name that another one gave, as in SeqIO: one of the two would be lost.
    """
    if both := sorted(results.keys() & found.keys()):
        raise ValueError(
            f"Task {task!r} cannot be scored: its metric function {function!r} gives {both[0]!r}, "
            f"as another metric function of the task does. Name it otherwise."
        )
    results |= found
