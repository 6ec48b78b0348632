"""What `evaluate` computes of a task's scoring, as the manifest names it; and what it leaves out.

Tasks whose postprocessor is this package's get references and answers as texts: `evaluate` does by
itself what that postprocessor does in SeqIO. All others are scored as SeqIO's Evaluator does it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import seqio

from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.named_function import NamedFunction


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What `evaluate` computes.

    Attributes:
      metrics, seqio_metrics: see `ul2tune.data.manifest.TaskManifest`.
      notes: what it leaves out, a sentence each.
    """

    metrics: tuple[str, ...] = ()
    seqio_metrics: SeqioMetrics | None = None
    notes: tuple[str, ...] = ()


def scoring_of(task: seqio.Task) -> Scoring:
    """The scoring of a task, as far as `evaluate` knows it."""
    notes: list[str] = []
    metrics, seqio_metrics = (), None
    if _is_ours(task.postprocessor):
        metrics = _of_texts(task, notes)
    elif task.metric_fns:
        seqio_metrics = _as_in_seqio(task, notes)
    # Of `task.metric_objs`, those that are not made of metric_fns: making these takes 2 ms each.
    if task._metric_objs_constructor_args:
        notes.append(_left_out("its metric_objs are not metric_fns"))
    return Scoring(metrics=metrics, seqio_metrics=seqio_metrics, notes=tuple(notes))


def _of_texts(task: seqio.Task, notes: list[str]) -> tuple[str, ...]:
    names = []
    for function in task.metric_fns:
        name = f"{function.__module__}.{getattr(function, '__qualname__', '')}"
        if function not in task.predict_metric_fns:
            notes.append(_left_out(f"metric {name} wants more than targets and predictions"))
        elif "<" in name or name.endswith("."):
            notes.append(_left_out(f"metric {function} has no importable name"))
        else:
            names.append(name)
    return tuple(names)


def _as_in_seqio(task: seqio.Task, notes: list[str]) -> SeqioMetrics | None:
    postprocess = task.postprocessor and NamedFunction.of(task.postprocessor)
    if task.postprocessor and not postprocess:
        notes.append(
            f"its postprocess_fn {_shown(task.postprocessor)} has no importable name; `evaluate` "
            f"will compute none of its metrics. Make it a function of a module, or a "
            f"functools.partial of one with plain arguments."
        )
        return None
    notes += [
        _left_out(f"metric {_shown(function)} wants aux_values")
        for function in task.predict_with_aux_metric_fns
    ]
    found = SeqioMetrics(
        postprocess=postprocess,
        of_predictions=_named(task.predict_metric_fns, notes),
        of_scores=_named(task.score_metric_fns, notes),
    )
    return found if found.functions else None


def _named(functions: Sequence[Callable], notes: list[str]) -> tuple[NamedFunction, ...]:
    found = [(function, NamedFunction.of(function)) for function in functions]
    notes += [
        _left_out(f"metric {_shown(function)} has no importable name")
        for function, name in found
        if name is None
    ]
    return tuple(name for _, name in found if name is not None)


def _left_out(what: str) -> str:
    return f"{what}; `evaluate` will not compute it."


def _shown(function: Callable) -> str:
    inner = function.func if isinstance(function, functools.partial) else function
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return f"{getattr(inner, '__module__', '')}.{name}"


def _is_ours(function: Callable | None) -> bool:
    return getattr(function, "__module__", "").startswith("ul2tune.")
