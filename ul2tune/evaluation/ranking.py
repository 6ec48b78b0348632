"""Likelihoods of answer choices: after the example's prompt, or each after a prompt of its own; and
of targets, where a task's metrics want them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ul2tune.evaluation.eval_set import EvalExample
from ul2tune.evaluation.predictor import LogLikelihood, OnDone, Predictor


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The answer choices of one example, in their order.

    Attributes:
      choices: what is compared; with priors, these are subtracted already.
      priors: given the prompts that say nothing; empty = there are none.
      target: of the example's target; None = nothing wants it.
    """

    choices: tuple[LogLikelihood, ...] = ()
    priors: tuple[LogLikelihood, ...] = ()
    target: LogLikelihood | None = None


class Ranker:
    """Scores each different pair of prompt and target once.

    Args:
      examples: those without answer choices get an empty ranking.
      every: off, only examples with a query per choice are ranked: they have no other answer.

    Raises:
      ValueError: if a choice has no tokens: nothing would be likelier than any of the others.
    """

    def __init__(self, examples: Sequence[EvalExample], *, every: bool = True):
        self._numbers: dict[tuple[bytes, bytes], int] = {}
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._asked = [
            self._requests(example) if every or example.queries else ([], [])
            for example in examples
        ]
        self._targets = [
            self._number(example.inputs_S, example.seqio.target_L)
            if example.seqio and example.seqio.is_scored
            else None
            for example in examples
        ]

    def __len__(self) -> int:
        """Sequences to score."""
        return len(self._pairs)

    @property
    def pairs(self) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Their prompts and targets, int32 ids [S] and [L]."""
        return self._pairs

    def rank(self, predictor: Predictor, on_done: OnDone = lambda count: None) -> list[Ranking]:
        """The rankings, in the order of the examples."""
        scores = predictor.score(
            [inputs for inputs, _ in self.pairs], [targets for _, targets in self.pairs], on_done
        )
        rankings = []
        for (choices, priors), target in zip(self._asked, self._targets, strict=True):
            found = [scores[number] for number in choices]
            before = [scores[number] for number in priors]
            if before:
                found = [score.minus(prior) for score, prior in zip(found, before, strict=True)]
            rankings.append(
                Ranking(
                    choices=tuple(found),
                    priors=tuple(before),
                    target=None if target is None else scores[target],
                )
            )
        return rankings

    def _requests(self, example: EvalExample) -> tuple[list[int], list[int]]:
        _check_tokens(example)
        prompts = example.query_ids or (example.inputs_S,) * len(example.choice_ids)
        pairs = zip(prompts, example.choice_ids, strict=True)
        # Either all queries have a prior or none has.
        priors = zip(example.prior_ids, example.choice_ids, strict=bool(example.prior_ids))
        return [self._number(*pair) for pair in pairs], [self._number(*pair) for pair in priors]

    def _number(self, inputs: np.ndarray, targets: np.ndarray) -> int:
        key = inputs.tobytes(), targets.tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self._pairs)
            self._pairs.append((inputs, targets))
        return self._numbers[key]


def _check_tokens(example: EvalExample) -> None:
    texts = [query.targets for query in example.queries] or example.answer_choices
    if len(set(texts)) == 1:
        # Channel scoring: all choices have one target, the input, and differ in their prompts. An
        # empty target favours none of them.
        return
    for text, ids in zip(texts, example.choice_ids, strict=True):
        if not len(ids):
            why = "the vocabulary drops all of its characters" if text else "it is empty"
            raise ValueError(
                f"Example {example.id!r} of task {example.task!r} cannot be ranked: the answer "
                f"choice {text!r} has no tokens, as {why}. Leave it out of the task, or have the "
                f"task end its targets with the end of sequence."
            )
