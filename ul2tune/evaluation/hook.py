"""Evaluation during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ul2tune.evaluation.examples import EvalSet
from ul2tune.evaluation.predictor import Predictor
from ul2tune.evaluation.run import EvalConfig, evaluate_set, load_set, make_predictor
from ul2tune.types import HookContext


class EvaluationHook:
    """A `Hook` that evaluates prepared mixtures every so many steps.

    Writes to ``MODEL_DIR/evaluation/<mixture>/step_<step>`` what `evaluate` writes, and logs the
    overall scores as ``eval/<mixture>/<metric>``. Programs are compiled and data is read once.

    Args:
      period_steps: how often.
      mixtures: prepared mixtures or tasks.
      data_dir: where they were prepared.
      eval: what and how.
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
        self.period_steps = period_steps
        self._mixtures, self._data_dir, self._eval = tuple(mixtures), data_dir, eval
        self._sets: dict[str, EvalSet] = {}
        # By vocabulary: mixtures that share one share the compiled programs.
        self._predictors: dict[str, Predictor] = {}

    def __call__(self, context: HookContext) -> Mapping[str, float]:
        """Evaluates the parameters of this step."""
        scalars: dict[str, float] = {}
        for mixture in self._mixtures:
            eval_set, predictor = self._prepared(mixture, context)
            predictor.params = context.params
            folder = Path(context.model_dir) / "evaluation" / mixture / f"step_{context.step}"
            facts = {"mixture": mixture, "step": context.step}
            table = evaluate_set(predictor, eval_set, self._eval, str(folder), facts)
            predictor.params = None  # the next step donates these buffers
            scalars |= {
                f"eval/{mixture}/{name}": value
                for name, value in table["overall"].items()
                if name != "num_examples"
            }
        return scalars

    def _prepared(self, mixture: str, context: HookContext) -> tuple[EvalSet, Predictor]:
        if mixture not in self._sets:
            self._sets[mixture] = load_set(mixture, self._data_dir, self._eval)
        eval_set = self._sets[mixture]
        vocabulary = eval_set.vocabulary.fingerprint
        if vocabulary not in self._predictors:
            self._predictors[vocabulary] = make_predictor(
                context.model, context.params, context.mesh, eval_set, self._eval
            )
        return eval_set, self._predictors[vocabulary]
