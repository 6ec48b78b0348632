"""Metrics of tasks that are registered in plain SeqIO, computed as SeqIO's Evaluator does.

    targets     = [postprocess_fn(target, example=element, is_target=True), …]
    predictions = [postprocess_fn(answer, example=element, is_target=False), …]
    metric_fn(targets=targets, predictions=predictions)
    metric_fn(targets=targets, scores=log_likelihoods_of_targets)

Source: `PassthroughLegacyMetric` of seqio/metrics.py, version 0.0.20.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.evaluation.answer import Answer
from ul2tune.named_function import NamedFunction


def compute(answers: Sequence[Answer], metrics: SeqioMetrics) -> dict[str, float]:
    """All metrics of one task's answers; what a metric function gives beside numbers is left out.

    Raises:
      ValueError: naming the task and the function, if that cannot be imported, raises, gives no
        mapping, or gives a name that another one gave.
    """
    found: dict[str, float] = {}
    # Anew for every metric, as in SeqIO: it may change what it is given.
    for function in metrics.of_predictions:
        targets = postprocessed(answers, metrics, is_target=True)
        predictions = postprocessed(answers, metrics, is_target=False)
        _add(found, answers, function, targets=targets, predictions=predictions)
    for function in metrics.of_scores:
        targets = postprocessed(answers, metrics, is_target=True)
        scores = np.array([answer.target.sum for answer in answers if answer.target])
        _add(found, answers, function, targets=targets, scores=scores)
    return found


def postprocessed(
    answers: Sequence[Answer], metrics: SeqioMetrics, *, is_target: bool
) -> list[Any]:
    """What the task's postprocessor makes of the targets, or of the answers.

    Raises:
      ValueError: naming task, function and example, if it cannot be imported or raises.
    """
    examples = [answer.example.seqio for answer in answers]
    texts = [
        example.target if is_target and example else answer.text
        for example, answer in zip(examples, answers, strict=True)
    ]
    if metrics.postprocess is None:
        return texts
    task = answers[0].example.task
    function = _imported(task, "its postprocess_fn", metrics.postprocess)
    found = []
    for answer, example, text in zip(answers, examples, texts, strict=True):
        assert example is not None, "prepared with seqio_metrics"
        try:
            found.append(function(text, example={**example.element}, is_target=is_target))
        except Exception as error:  # a function of the user's may raise anything
            side = "target" if is_target else "answer"
            raise ValueError(
                f"Task {task!r} cannot be scored: its postprocess_fn {metrics.postprocess.name!r} "
                f"fails on the {side} {text!r:.60} of example {answer.example.id!r} "
                f"({_told(error)}). Its `example` has the fields "
                f"{', '.join(sorted(example.element))}."
            ) from error
    return found


def _add(
    found: dict[str, float], answers: Sequence[Answer], name: NamedFunction, **arguments: Any
) -> None:
    task, what = answers[0].example.task, f"its metric function {name.name!r}"
    function = _imported(task, "its metric function", name)
    try:
        result = function(**arguments)
    except Exception as error:
        raise ValueError(
            f"Task {task!r} cannot be scored: {what} fails ({_told(error)})."
        ) from error
    if not isinstance(result, Mapping):
        raise ValueError(
            f"Task {task!r} cannot be scored: {what} gives {result!r:.60}; it must give numbers by "
            f"their names."
        )
    numbers = {key: _number(value) for key, value in result.items()}
    for key, number in numbers.items():
        if key in found:
            raise ValueError(
                f"Task {task!r} cannot be scored: {what} gives {key!r}, as another metric function "
                f"of the task does."
            )
        if number is not None:
            found[str(key)] = number


def _imported(task: str, what: str, name: NamedFunction) -> Callable[..., Any]:
    try:
        function = name.resolve()
    except ValueError as error:
        raise ValueError(
            f"Task {task!r} cannot be scored: {what} {error}. Call `evaluate` where `prepare` "
            f"finds the module, with what it imports installed, or prepare the task without."
        ) from error
    if tensorflow := sys.modules.get("tensorflow"):  # of the user's: the devices' memory is JAX's
        with suppress(RuntimeError):  # it has begun to use them already
            tensorflow.config.set_visible_devices([], "GPU")
    return function


def _number(value: Any) -> float | None:
    """A number, or that in a `seqio.metrics.Scalar`; None for texts, images and histograms."""
    value = getattr(value, "value", value)
    with suppress(TypeError, ValueError):
        return None if isinstance(value, str | bytes) else float(value)
    return None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
