"""Evaluation during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from ul2tune.checkpoints import agreement, vocabulary
from ul2tune.data.vocab_base import Vocabulary
from ul2tune.evaluation import preflight, report
from ul2tune.evaluation.config import EvalConfig
from ul2tune.evaluation.eval_set import EvalSet
from ul2tune.evaluation.predictor import Predictor
from ul2tune.evaluation.run import evaluate_set, load_set, make_predictor
from ul2tune.models.base import ModelConfig
from ul2tune.types import HookContext


class EvaluationHook:
    """A `Hook` that evaluates prepared mixtures every so many steps.

    Writes to ``MODEL_DIR/evaluation/<mixture>/step_<step>`` what `evaluate` writes, and logs the
    main scores as ``eval/<mixture>/<metric>``. Programs are compiled once; data is read and
    metrics are tried when the hook is made, so that a run with a mixture that is not there, or with
    a metric that lacks something, does not even start.

    Args:
      period_steps: how often.
      mixtures: prepared mixtures or tasks.
      data_dir: where they were prepared.
      eval: what and how.

    Raises:
      FileNotFoundError: if a mixture is not prepared.
      ValueError: if it has no prompts, is named twice, none is named, a metric cannot score, or a
        prompt or an answer choice has no tokens.
    """

    def __init__(
        self,
        period_steps: int,
        mixtures: Sequence[str],
        data_dir: str,
        eval: EvalConfig,
    ):
        if period_steps < 1:
            raise ValueError(f"EvaluationHook.period_steps must be positive, got {period_steps}.")
        if isinstance(mixtures, str) or not mixtures or len(set(mixtures)) < len(mixtures):
            raise ValueError(
                f"EvaluationHook.mixtures must be a list of different names, got {mixtures!r}."
            )
        self.period_steps, self._eval = period_steps, eval
        # A package that one host lacks, for example, must stop all of them.
        with agreement.together():
            self._sets = {mixture: _load(mixture, data_dir, eval) for mixture in mixtures}
            for eval_set in self._sets.values():
                preflight.check_metrics(eval_set, eval.metrics)
                preflight.check_prompts(eval_set, eval, eval.layout)
        # By vocabulary: mixtures that share one share the compiled programs.
        self._predictors: dict[str, Predictor] = {}

    def check_vocabulary(self, trained: Vocabulary) -> None:
        """Called with the vocabulary of a run's data before its first step.

        Raises:
          ValueError: if a mixture has another one, unless `EvalConfig.allow_other_vocabulary`.
        """
        then = vocabulary.identity(trained)
        for mixture, eval_set in self._sets.items():
            now = vocabulary.identity(eval_set.vocabulary)
            if then != now and not self._eval.allow_other_vocabulary:
                raise ValueError(
                    f"EvaluationHook.mixtures: {mixture!r} was prepared with another vocabulary "
                    f"({vocabulary.words(now)}) than the run's data ({vocabulary.words(then)}): "
                    f"the model would read its prompts as other words. Prepare it with the run's "
                    f"(UL2TUNE_VOCABULARY); or, if the ids do mean the same, set "
                    f"EvalConfig.allow_other_vocabulary = True."
                )

    def check_model(self, model: ModelConfig) -> None:
        """Called with the model's configuration before the first step. Collective.

        Raises:
          ValueError: if it cannot be asked a mixture's prompts, see `preflight.check_model`.
        """
        with agreement.together():
            for mixture, eval_set in self._sets.items():
                try:
                    preflight.check_model(eval_set, model, self._eval)
                except ValueError as error:
                    raise ValueError(f"EvaluationHook.mixtures: {mixture!r}: {error}") from error

    def check_model_dir(self, model_dir: str) -> None:
        """Called with the run's directory before its first step. Collective.

        Raises:
          ValueError: if a mixture's folder in it cannot be written to.
        """
        with agreement.together():
            if jax.process_index() == 0:
                for mixture in self._sets:
                    preflight.check_folder(
                        _folder(model_dir, mixture), "MODEL_DIR, where EvaluationHook writes"
                    )

    def __call__(self, context: HookContext) -> Mapping[str, float]:
        """Evaluates the parameters of this step."""
        scalars: dict[str, float] = {}
        for mixture, eval_set in self._sets.items():
            predictor = self._predictor(eval_set, context)
            predictor.params = context.params
            folder = _folder(context.model_dir, mixture) / f"step_{context.step}"
            facts = {"mixture": mixture, "step": context.step}
            table = evaluate_set(predictor, eval_set, self._eval, str(folder), facts)
            predictor.params = None  # the next step donates these buffers
            scalars |= {
                f"eval/{mixture}/{name}": value for name, value in report.main_scores(table).items()
            }
        return scalars

    def _predictor(self, eval_set: EvalSet, context: HookContext) -> Predictor:
        fingerprint = eval_set.vocabulary.fingerprint
        if fingerprint not in self._predictors:
            self._predictors[fingerprint] = make_predictor(
                context.model, context.params, context.mesh, eval_set, self._eval
            )
        return self._predictors[fingerprint]


def _folder(model_dir: str, mixture: str) -> Path:
    return Path(model_dir) / "evaluation" / mixture


def _load(mixture: str, data_dir: str, eval: EvalConfig) -> EvalSet:
    """Its errors name the setting: a run has a mixture of its own, which they may not mean."""
    try:
        return load_set(mixture, data_dir, eval)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"EvaluationHook.mixtures: {mixture!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"EvaluationHook.mixtures: {mixture!r}: {error}") from error
