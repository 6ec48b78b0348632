"""One prompt with what its prediction is compared to, and the set of them that an evaluation runs
over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.data.vocab import Vocabulary
from ul2tune.evaluation.seqio_example import SeqioExample
from ul2tune.evaluation.tokens import until
from ul2tune.instructions.records import Query
from ul2tune.metrics.reply_frame import ReplyFrame

# Of a task: dotted names of metric functions that get references and answers as texts, or all that
# SeqIO's Evaluator would compute.
MetricFunctions = tuple[str, ...] | SeqioMetrics


@dataclass(frozen=True, kw_only=True)
class EvalExample:
    """One prompt with what its prediction is compared to.

    Attributes:
      task, id: its name; together unique in the set.
      category, cluster: the task's, or empty.
      inputs_S: int32 ids of the prompt, end of sequence included where the task has one.
      inputs_text: the prompt in words, as the model sees it: of a prompt that is too long, the
        words of `inputs_S`.
      references: acceptable answers, at least one (`metrics.references.References` where a metric
        needs more).
      answer_choices: what rank classification ranks; empty = nothing.
      choice_ids: int32 ids of what is scored for each: the choice, or the target of its query;
        ended as the task's targets are.
      queries: where every choice has a prompt of its own, one per choice (`records.Query`). Such an
        example is not answered by generation; `inputs_S` may even show the answer.
      query_ids: int32 ids of the queries' prompts.
      prior_ids: int32 ids of their prompts that say nothing; empty = no query has one.
      metric_names: the scores its collection reports, the headline first; may be empty.
      template_id: which template made the prompt; empty = the only one.
      record_task: what the collection calls it; tasks that differ in the prompt alone share it.
      demo_ids: demos in the prompt.
      benchmark, split_level: the record's, see `records.Record`.
      seed: of the rendering, which may have drawn the demos.
      baselines: predictions that need no model, by name.
      truncated: the prompt was cut, or demos left out, by its renderer for a token budget; or it
        was cut here to the length.
      reply_frame: what the task has the model write around an answer, as the vocabulary spells it.
      stop_id: the token that frame ends answers with; None = only the end of sequence does.
      seqio: what the metrics of a task that is registered in plain SeqIO need; None for a task of
        ours.
    """

    task: str
    id: str
    category: str
    inputs_S: np.ndarray
    inputs_text: str
    references: tuple[str, ...]
    answer_choices: tuple[str, ...] = ()
    choice_ids: tuple[np.ndarray, ...] = ()
    queries: tuple[Query, ...] = ()
    query_ids: tuple[np.ndarray, ...] = ()
    prior_ids: tuple[np.ndarray, ...] = ()
    cluster: str = ""
    template_id: str = ""
    record_task: str = ""
    metric_names: tuple[str, ...] = ()
    demo_ids: tuple[str, ...] = ()
    benchmark: str = ""
    split_level: str = ""
    seed: str = ""
    baselines: Mapping[str, str] | None = None
    truncated: bool = False
    reply_frame: ReplyFrame = field(default_factory=ReplyFrame)
    stop_id: int | None = None
    seqio: SeqioExample | None = None

    @property
    def is_answered(self) -> bool:
        """Whether an answer is generated: not where only likelihoods are compared."""
        return not self.queries and (self.seqio is None or self.seqio.is_answered)

    @property
    def name(self) -> str:
        """Keys the randomness of this example's generation."""
        return f"{self.task}/{self.id}"

    def said(self, vocabulary: Vocabulary, ids: Sequence[int]) -> str:
        """The answer in generated ids."""
        text = vocabulary.decode(until(ids, self.stop_id))
        return text if self.seqio else self.reply_frame.content(text)

    @property
    def first_difference(self) -> int | None:
        """The position at which one token tells all answer choices apart; None if there is none.

        Before it all choices are the same: nothing, or the space before a letter in a vocabulary
        that has no piece for both.
        """
        shortest = min((len(ids) for ids in self.choice_ids), default=0)
        for position in range(shortest):
            tokens = {int(ids[position]) for ids in self.choice_ids}
            if len(tokens) > 1:
                return position if len(tokens) == len(self.choice_ids) else None
        return None


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """All examples of a mixture's split, in the order of the manifests.

    Attributes:
      examples: tasks one after the other.
      vocabulary: of the prepared data.
      metric_functions: by task, from the manifests.
      fingerprints: of each task's prepared data.
      split_hash: of the names of all examples, in order.
      split_hashes: of the ids of each task's examples, in order.
    """

    examples: tuple[EvalExample, ...]
    vocabulary: Vocabulary
    metric_functions: Mapping[str, MetricFunctions]
    fingerprints: Mapping[str, str]
    split_hash: str
    split_hashes: Mapping[str, str] = field(default_factory=dict)
