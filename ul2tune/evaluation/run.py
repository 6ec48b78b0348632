"""`evaluate`: the root function of the command, and the same for a training run's hook."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ul2tune import compilation_cache, sharding
from ul2tune.checkpoints import agreement, initialize, vocabulary
from ul2tune.evaluation import examples, layouts, preflight, report
from ul2tune.evaluation.answer import Answer, judge
from ul2tune.evaluation.config import EvalConfig
from ul2tune.evaluation.eval_set import EvalSet
from ul2tune.evaluation.predictor import Predictor, load_params
from ul2tune.evaluation.ranking import Ranker
from ul2tune.models.base import ModelConfig
from ul2tune.signal_handlers import interrupts, raise_ignored_interrupt
from ul2tune.status_line import Progress
from ul2tune.types import Tree


def evaluate(
    model: ModelConfig,
    mixture: str,
    data_dir: str,
    checkpoint_path: str,
    mesh: sharding.MeshConfig,
    output_dir: str,
    eval: EvalConfig,
    compilation_cache_dir: str | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint on a prepared mixture; writes `predictions.jsonl` and `metrics.json`.

    Needs no TensorFlow: prompts and references come from prepared data.

    Args:
      model: configuration of the model.
      mixture: prepared mixture or task.
      data_dir: where it was prepared.
      checkpoint_path: MODEL_DIR (its newest checkpoint) or one step's folder.
      mesh: devices.
      output_dir: where to write.
      eval: what and how.
      compilation_cache_dir: as `RunConfig.compilation_cache_dir`.

    Returns:
      The content of `metrics.json`.

    Raises:
      FileNotFoundError: if the mixture is not prepared.
      ValueError: if data, model and checkpoint do not fit each other, the output folder cannot be
        written to, a metric cannot score, or a prompt or an answer choice has no tokens or is too
        long for the model.
    """
    compilation_cache.use(compilation_cache_dir)
    device_mesh = sharding.make_mesh(mesh)
    with agreement.together():
        eval_set = load_set(mixture, data_dir, eval)
        if jax.process_index() == 0:
            preflight.check_folder(output_dir, "EVAL_OUTPUT_DIR")
        preflight.check_metrics(eval_set, eval.metrics)
        preflight.check_prompts(eval_set, eval, eval.layout or model.LAYOUTS[0])
    step_dir = initialize.resolve(checkpoint_path)
    with agreement.together():
        vocabulary.check(
            step_dir,
            eval_set.vocabulary,
            allow=eval.allow_other_vocabulary,
            setting="EvalConfig.allow_other_vocabulary",
        )
        trained = layouts.of_checkpoint(model, eval.layout, step_dir)
        eval = dataclasses.replace(eval, layout=trained)
        preflight.check_model(eval_set, model, eval)
    facts = {"mixture": mixture, "checkpoint": str(checkpoint_path), "step": int(step_dir.name)}
    with interrupts():
        params = load_params(model, device_mesh, step_dir, ema=eval.ema)
        initialize.warn_of_other_model(step_dir, model)
        predictor = make_predictor(model, params, device_mesh, eval_set, eval)
        return evaluate_set(predictor, eval_set, eval, output_dir, facts)


def load_set(mixture: str, data_dir: str, eval: EvalConfig) -> EvalSet:
    """The examples that `eval` asks for."""
    found = examples.load(
        mixture,
        data_dir,
        split=eval.split,
        inputs_length=eval.inputs_length,
        max_examples_per_task=eval.max_examples_per_task,
    )
    if eval.task_metrics:
        return found
    bare = tuple(dataclasses.replace(example, metric_names=()) for example in found.examples)
    return dataclasses.replace(found, examples=bare)


def make_predictor(
    model: ModelConfig, params: Tree, mesh: jax.sharding.Mesh, eval_set: EvalSet, eval: EvalConfig
) -> Predictor:
    """A predictor for the vocabulary of the examples."""
    return Predictor(
        model,
        params,
        mesh,
        info=eval_set.vocabulary.info,
        num_ids=eval_set.vocabulary.size,
        batch_size=eval.batch_size,
        length_buckets=eval.buckets,
        layout=eval.layout,
    )


def evaluate_set(
    predictor: Predictor,
    eval_set: EvalSet,
    eval: EvalConfig,
    output_dir: str,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Answers, judges and writes. Collective; only the first process writes.

    `facts` are added to `metrics.json`: what else determines the numbers.

    Raises:
      ValueError: if a task's own metrics fail on the answers, which are written by then.
    """
    answers = answer_all(predictor, eval_set, eval)
    if jax.process_index() == 0:  # before a function of the user's sees what the model said
        report.write_predictions(output_dir, answers, eval_set.split_hash)
    try:
        table = report.summarize(answers, eval_set, eval.metrics)
    except ValueError as error:
        raise ValueError(
            f"{str(error).rstrip('.')}. All answers are in {Path(output_dir, 'predictions.jsonl')}."
        ) from error
    table |= {
        **facts,
        "split": eval.split,
        "inputs_length": eval.inputs_length,
        "layout": predictor.layout,
        "sampling": dataclasses.asdict(eval.sampling),
    }
    if jax.process_index() == 0:
        report.write_table(output_dir, table)
    return table


def answer_all(predictor: Predictor, eval_set: EvalSet, eval: EvalConfig) -> list[Answer]:
    """Generates an answer to every example and scores its answer choices."""
    asked = eval_set.examples
    generated = [example for example in asked if example.is_answered]
    ranker = Ranker(asked, every=eval.rank_choices)
    progress = Progress(
        "evaluate",
        len(generated) + len(ranker),
        "sequences",
        enabled=jax.process_index() == 0,
    )
    tokens = predictor.generate(
        [example.inputs_S for example in generated],
        [example.name for example in generated],
        eval.sampling,
        progress.advance,
        stops=[example.stop_id for example in generated],
    )
    rankings = ranker.rank(predictor, progress.advance)
    progress.close()
    written = {example.name: ids for example, ids in zip(generated, tokens, strict=True)}
    answers = []
    progress = Progress("score", len(asked), "answers", enabled=jax.process_index() == 0)
    for example, ranking in zip(asked, rankings, strict=True):
        raise_ignored_interrupt()
        ids = written.get(example.name)
        said = [] if ids is None else ids.tolist()
        text = example.said(eval_set.vocabulary, said)
        # Where nothing is answered, only ranks can be judged.
        names = eval.metrics if example.is_answered or example.queries else ()
        answer = judge(example, text, ranking.choices, names, ranking.priors)
        ends = {eval_set.vocabulary.info.eos_id, example.stop_id}
        finished = ids is None or not ends.isdisjoint(said)
        answers.append(dataclasses.replace(answer, finished=finished, target=ranking.target))
        progress.advance(1)
    progress.close()
    return answers
