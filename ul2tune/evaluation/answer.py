"""One answer and its scores: what the model said, or which of the answer choices it preferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ul2tune.evaluation.eval_set import EvalExample
from ul2tune.evaluation.predictor import LogLikelihood
from ul2tune.metrics import registry
from ul2tune.metrics.choices import is_correct_choice, rank_choice

# Both ways to rank are always reported: scores of one paper are not reproducible with the other's.
RANK_SUM, RANK_MEAN = "rank_accuracy_sum", "rank_accuracy_mean"
# By the probability of the one token that tells the choices apart, where there is one: MMLU's.
RANK_FIRST = "rank_accuracy_first_token"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model made of one example.

    Attributes:
      example: the question.
      text: generated; or the best choice by mean, where each choice has a query of its own.
      choices: log-likelihood of each answer choice, in their order; empty if there are none.
      priors: what has been subtracted from `choices`; empty = nothing.
      finished: the generation ended by itself, before the longest length allowed.
      scores: metric -> number in [0, 1].
      target: log-likelihood of the target, where a metric of its task wants it.
    """

    example: EvalExample
    text: str
    choices: tuple[LogLikelihood, ...]
    scores: Mapping[str, float]
    priors: tuple[LogLikelihood, ...] = ()
    finished: bool = True
    target: LogLikelihood | None = None

    def to_json(self, split_hash: str) -> dict[str, Any]:
        """One line of `predictions.jsonl`."""
        example = self.example
        # With queries, `inputs_text` is not what was asked.
        queries = [asdict(query) for query in example.queries]
        line: dict[str, Any] = {
            "task": example.task,
            "id": example.id,
            "category": example.category,
            "cluster": example.cluster,
            "benchmark": example.benchmark,
            "split_level": example.split_level,
            "template_id": example.template_id,
            "seed": example.seed,
            "split_hash": split_hash,
            **({"queries": queries} if queries else {"prompt": example.inputs_text}),
            "truncated": example.truncated,
            "demo_ids": list(example.demo_ids),
            "references": list(example.references),
            "prediction": self.text,
            "finished": self.finished,
            "scores": dict(self.scores),
        }
        if self.target:
            line["log_likelihood_target"] = round(self.target.sum, 4)
        if self.choices:
            line["answer_choices"] = [choice.strip() for choice in example.answer_choices]
            line["log_likelihood_sum"] = [round(choice.sum, 4) for choice in self.choices]
            line["log_likelihood_mean"] = [round(choice.mean, 4) for choice in self.choices]
            if self.priors:
                line["log_likelihood_prior_sum"] = [round(prior.sum, 4) for prior in self.priors]
            first = example.first_difference
            if first is not None:
                line["log_likelihood_first_token"] = [
                    round(choice.tokens[first], 4) for choice in self.choices
                ]
        return line


def judge(
    example: EvalExample,
    text: str,
    choices: Sequence[LogLikelihood],
    names: Sequence[str],
    priors: Sequence[LogLikelihood] = (),
) -> Answer:
    """Scores one answer by the metrics called `names`, and by rank where there are choices.

    The example's own `metric_names` come on top, except those that are ranks: choices are always
    ranked by sum and by mean and, where one token tells them apart, by that token.

    Args:
      example: the question.
      text: the generation; not used where every choice has a query of its own.
      choices: log-likelihoods to compare.
      names: keys of `registry.SCORES`.
      priors: what was subtracted from `choices`.
    """
    if example.queries and choices:
        text = example.answer_choices[rank_choice([c.mean for c in choices])].strip()
    wanted = dict.fromkeys([*names, *(n for n in example.metric_names if n in registry.SCORES)])
    scores = {name: registry.SCORES[name](text, example.references) for name in wanted}
    if choices:
        right = [is_correct_choice(choice, example.references) for choice in example.answer_choices]
        scores[RANK_SUM] = float(right[rank_choice([c.sum for c in choices])])
        scores[RANK_MEAN] = float(right[rank_choice([c.mean for c in choices])])
        first = example.first_difference
        if first is not None:
            scores[RANK_FIRST] = float(right[rank_choice([c.tokens[first] for c in choices])])
    return Answer(
        example=example, text=text, choices=tuple(choices), scores=scores, priors=tuple(priors)
    )
