"""Checks before an evaluation: its prompts, the model they are for, where it writes, its metrics.

Most of these are needed late, during training or after the last generation. A mistake should be
found before anything is computed.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.evaluation import groups, layouts, seqio_metrics
from ul2tune.evaluation.answer import Answer, judge
from ul2tune.evaluation.config import EvalConfig
from ul2tune.evaluation.eval_set import EvalExample, EvalSet, MetricFunctions
from ul2tune.evaluation.predictor import (
    LogLikelihood,
    choose_layout,
    padded_prompt,
    padded_target,
)
from ul2tune.evaluation.ranking import Ranker
from ul2tune.models.base import ModelConfig

log = logging.getLogger(__name__)
# Of more examples than these, some tell first whether a metric knows references from empty answers.
_FEW = 200


def check_folder(folder: str | Path, setting: str) -> None:
    """Tries whether a folder can be written to, or made; leaves nothing behind.

    Args:
      folder: where to write later.
      setting: what decides the folder, for the message.

    Raises:
      ValueError: if it cannot be written to.
    """
    wanted = Path(folder)
    # ".." after a link is not what the text says.
    wanted = wanted.resolve() if ".." in wanted.parts else wanted.absolute()
    there = next(path for path in (wanted, *wanted.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryDirectory(prefix=".probe.", dir=there) as probe:
            Path(probe, wanted.relative_to(there)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        is_file = os.path.isfile(there)
        why = f"{there} is a file" if is_file else error.strerror or str(error)
        raise ValueError(
            f"{setting}: {folder} cannot be written to ({why}). Name a folder that can be made, or "
            f"one that may be written to."
        ) from error


def check_metrics(eval_set: EvalSet, names: Sequence[str]) -> None:
    """Scores references as if they were answers: what a metric lacks shows now.

    Every task has its first example scored by `names` and its own `metric_names`. Its metric
    functions see all of its examples, as they will later: some (a correlation) need several. One
    that cannot tell the references from empty answers is warned of, and a postprocessor that fails
    on an empty answer.

    Raises:
      ValueError: if a metric or a postprocessor fails, naming it and the task.
    """
    tasks: dict[str, list[EvalExample]] = {}
    for example in eval_set.examples:
        tasks.setdefault(example.task, []).append(example)
    for task, examples in tasks.items():
        _check_scores(task, examples[0], names)
        answers = [
            Answer(example=example, text=example.references[0], choices=(), scores={})
            for example in examples
        ]
        functions = eval_set.metric_functions[task]
        if isinstance(functions, SeqioMetrics):
            _check_as_in_seqio(task, examples, functions)
            continue
        together: dict[str, float] = {}
        for function in functions:
            groups.add(together, _check_function(task, answers, function), task, function)


def check_prompts(eval_set: EvalSet, config: EvalConfig, layout: str | None) -> None:
    """Looks for examples that cannot be answered, and answer choices that have no likelihood.

    Args:
      eval_set: the examples.
      config: how they are asked.
      layout: one that the model reads; None = that of encoder-decoders, which read no other.

    Raises:
      ValueError: naming task and example, or choice.
    """
    Ranker(eval_set.examples, every=config.rank_choices)  # looks at the choices
    for example in eval_set.examples:
        if not example.queries:  # nothing is generated for those
            layouts.check_prompt(
                layout or layouts.ENCODER_DECODER,
                example.inputs_S,
                f"The prompt of example {example.id!r} of task {example.task!r}",
            )


def check_model(eval_set: EvalSet, model: ModelConfig, config: EvalConfig) -> None:
    """Looks for what a model cannot read: the vocabulary, the layout, or prompts that are too long
    together with their answers or answer choices.

    Raises:
      ValueError: saying which; of a prompt with its task and example, or answer choice.
    """
    vocabulary, buckets = eval_set.vocabulary, config.buckets
    choose_layout(model, config.layout, vocabulary.info, vocabulary.size)
    for example in eval_set.examples:
        source = padded_prompt(len(example.inputs_S), buckets)
        what = f"The prompt of example {example.id!r} of task {example.task!r}"
        if example.is_answered:
            layouts.check_row(model, source, config.sampling.max_decode_length, what)
        if example.seqio and example.seqio.is_scored:
            target = padded_target(len(example.seqio.target_L))
            layouts.check_row(model, source, target, f"{what} with its target")
    for inputs_S, targets_L in Ranker(eval_set.examples, every=config.rank_choices).pairs:
        source, target = padded_prompt(len(inputs_S), buckets), padded_target(len(targets_L))
        if layouts.why_too_long(model, source, target):  # a suite has too many choices to spell all
            choice = vocabulary.decode(targets_L)
            layouts.check_row(model, source, target, f"A prompt with the answer choice {choice!r}")


def _check_scores(task: str, example: EvalExample, names: Sequence[str]) -> None:
    try:
        judge(example, example.references[0], (), names)
    except ValueError as error:
        raise ValueError(
            f"Task {task!r} cannot be scored, by EVAL_METRICS = {tuple(names)} and its own "
            f"metric_names = {example.metric_names}: {error}"
        ) from error


def _check_function(task: str, answers: Sequence[Answer], function: str) -> dict[str, float]:
    """What it gives the references."""
    found = groups.declared(answers, (function,))
    if same := _as_of_empty(answers, (function,), found):
        log.warning(
            "Task %r: its metric function %r gives the references themselves what it gives empty "
            "answers (%s). A target is the tuple of an example's references here, also where there "
            "is one: does it compare that with a text? (docs/evaluation.md)",
            task,
            function,
            _spelled(same),
        )
    return found


def _check_as_in_seqio(task: str, examples: Sequence[EvalExample], metrics: SeqioMetrics) -> None:
    # Any log-likelihood will do.
    answers = [
        Answer(
            example=example,
            text=example.seqio.target if example.seqio else "",
            choices=(),
            scores={},
            target=LogLikelihood(sum=-1.0, num_tokens=1),
        )
        for example in examples
    ]
    of_answers = dataclasses.replace(metrics, of_scores=())
    found = groups.declared(answers, of_answers)
    scored = groups.declared(answers, dataclasses.replace(metrics, of_predictions=()))
    if found.keys() & scored.keys():
        groups.declared(answers, metrics)  # raises
    if not metrics.of_predictions:  # the postprocessor sees targets alone
        return
    empty = [dataclasses.replace(answer, text="") for answer in answers]
    try:
        seqio_metrics.postprocessed(empty, metrics, is_target=False)
    except ValueError as error:
        log.warning("%s Should the model give an empty answer, its evaluation fails.", error)
        return
    if same := _as_of_empty(answers, of_answers, found):
        log.warning(
            "Task %r: its metric functions give its own targets what they give empty answers (%s). "
            "Does its postprocess_fn make the same of both? (docs/evaluation.md)",
            task,
            _spelled(same),
        )


def _spelled(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {number:g}" for name, number in found.items())


def _as_of_empty(
    answers: Sequence[Answer], functions: MetricFunctions, found: Mapping[str, float]
) -> Mapping[str, float] | None:
    """What metric functions give empty answers, if that is what they give these.

    Functions may be slow. So of many answers only some are asked again, from all parts of a task
    that may be sorted by label; but all where those agree, as a score of one class can be equal on
    answers that lack it.

    Args:
      answers: of a task.
      functions: of that task.
      found: what they gave all of `answers`.

    Returns:
      None where it is another, or there is none.
    """
    if not found or not any(answer.text for answer in answers):
        return None

    def of_empty(some: Sequence[Answer]) -> Mapping[str, float]:
        return groups.declared([dataclasses.replace(one, text="") for one in some], functions)

    few = answers[:: math.ceil(len(answers) / _FEW)]
    try:
        if len(few) < len(answers) and groups.declared(few, functions) != of_empty(few):
            return None
        return found if found == of_empty(answers) else None
    except Exception:  # of a function of the user's; real answers are rarely all empty
        return None
