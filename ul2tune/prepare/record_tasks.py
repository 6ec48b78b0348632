"""Instruction collections as SeqIO tasks: the one way from records to prepared examples.

    register_record_task("my_task", corpus, functools.partial(tk_instruct.render, encodings=…))

Every collection is registered like this: a corpus of records (`ul2tune.instructions.records`) and a
renderer. The elements hold `inputs` and `targets` (tokenized, with end of sequence) and what
evaluation needs beside them (`records.FIELD_NAMES`); `prepare` carries it into `Example.fields`,
and in plain SeqIO the task's postprocessor and metric functions use it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import seqio

from ul2tune.instructions.records import (
    FIELD_NAMES,
    Record,
    RecordCorpus,
    Renderer,
    evaluation_fields,
    move_space,
)
from ul2tune.instructions.tokenizer import Tokenizer
from ul2tune.metrics import registry
from ul2tune.metrics.references import References
from ul2tune.metrics.registry import MetricFn
from ul2tune.metrics.reply_frame import ReplyFrame
from ul2tune.prepare.identity import identity
from ul2tune.prepare.runtime import tf
from ul2tune.prepare.seqio_vocab import SeqioVocabulary
from ul2tune.prepare.sources import PythonSource
from ul2tune.prepare.tasks import VocabularyLike, seqio_vocabulary

DEFAULT_METRICS = (registry.exact_match, registry.token_f1, registry.rouge_l)

_LISTS = ("targets_text", "answer_choices", "demo_ids", "metric_names")
_SIGNATURE = {
    **dict.fromkeys(
        ("inputs", "targets", "render_seed", *FIELD_NAMES), tf.TensorSpec([], tf.string)
    ),
    **dict.fromkeys(_LISTS, tf.TensorSpec([None], tf.string)),
}
del _SIGNATURE["inputs_text"]  # SeqIO keeps it as `inputs_pretokenized`


@runtime_checkable
class ShardedCorpus(Protocol):
    """A corpus that makes the records of a shard without making the others; for corpora whose
    records cost more than reading their rows."""

    def read_shard(self, split: str, shard: int, num_shards: int) -> Iterator[Record]: ...


class RecordSource(PythonSource):
    """Rendered records as elements of strings.

    Args:
      corpus: the records.
      make_renderer: called once with the tokenizer when the source is first read.
      vocabulary: its tokenizer counts prompts' tokens.
      seed: of the rendering.

    Attributes:
      corpus, make_renderer, vocabulary, seed: the arguments.
    """

    def __init__(
        self,
        corpus: RecordCorpus,
        make_renderer: Callable[[Tokenizer], Renderer],
        vocabulary: SeqioVocabulary,
        seed: int,
    ):
        super().__init__(corpus.splits, _SIGNATURE)
        self.corpus, self.make_renderer = corpus, make_renderer
        self.vocabulary, self.seed = vocabulary, seed

    def fingerprint(self) -> list[Any]:
        """Changes whenever an element could: records, renderer, seed, the fields themselves."""
        parts = [self.corpus.fingerprint(), identity(self.make_renderer), self.seed]
        return [*parts, list(FIELD_NAMES)]

    def _elements(self, split: str, shard: int, num_shards: int) -> Iterator[dict[str, Any]]:
        vocabulary = self.vocabulary.vocabulary
        render = self.make_renderer(vocabulary)
        # Where a space is part of the next piece, it belongs to the answer.
        keeps_spaces = vocabulary.encode("a") != vocabulary.encode(" a")
        for record in self._records(split, shard, num_shards):
            if split != "train" and record.split_level == "train":
                # The loader does not say, but these very examples are in any case not trained on.
                record = dataclasses.replace(record, split_level="supervised")
            rendered = render(record, self.seed)
            if rendered is None:
                continue
            rendered = move_space(rendered) if keeps_spaces else rendered
            fields = evaluation_fields(record, rendered)
            del fields["inputs_text"]
            yield {
                "inputs": rendered.inputs,
                "targets": rendered.targets,
                "render_seed": str(self.seed),
                **fields,
            }

    def _records(self, split: str, shard: int, num_shards: int) -> Iterator[Record]:
        """Every `num_shards`-th record."""
        if isinstance(self.corpus, ShardedCorpus):
            return self.corpus.read_shard(split, shard, num_shards)
        return itertools.islice(self.corpus.read(split), shard, None, num_shards)


def register_record_task(
    name: str,
    corpus: RecordCorpus,
    make_renderer: Callable[[Tokenizer], Renderer],
    *,
    vocabulary: VocabularyLike = "stdlib",
    seed: int = 0,
    eos: Sequence[str] = ("inputs", "targets"),
    metric_fns: Sequence[MetricFn] = DEFAULT_METRICS,
    tokenize: Callable[..., tf.data.Dataset] = seqio.preprocessors.tokenize,
) -> seqio.Task:
    """Registers a task over records. Nothing is read until the task is used.

    Args:
      name: the task's name.
      corpus: the records.
      make_renderer: tokenizer -> renderer; the tokenizer is for token budgets.
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`.
      seed: of everything random in the rendering.
      eos: the features that end with end of sequence. Decoder-only models usually want it after
        the targets alone: ``("targets",)``.
      metric_fns: with SeqIO's signature; targets come as `metrics.references.References`.
      tokenize: the preprocessor that makes ids of texts.

    Returns:
      the registered task.

    Raises:
      ValueError: if `eos` names something else than ``"inputs"`` and ``"targets"``.
    """
    if unknown := sorted(set(eos) - {"inputs", "targets"}):
        raise ValueError(f"Task {name!r}: eos names {unknown[0]!r}; use 'inputs', 'targets'.")
    wrapped = seqio_vocabulary(vocabulary)
    features = {
        side: seqio.Feature(vocabulary=wrapped, add_eos=side in eos)
        for side in ("inputs", "targets")
    }
    return seqio.TaskRegistry.add(
        name,
        source=RecordSource(corpus, make_renderer, wrapped, seed),  # type: ignore[arg-type]
        preprocessors=[tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features=features,
        postprocess_fn=references,
        metric_fns=list(metric_fns),
    )


def references(
    output: str, example: Mapping[str, Any] | None = None, is_target: bool = False
) -> str | References:
    """SeqIO postprocessor: all references as the target, and a prediction without outer spaces and
    what a chat template writes around it."""
    found = (example or {}).get("metric_context", b"")
    context = bytes(np.asarray(found).item()).decode("utf-8")
    if is_target and example is not None:
        texts = [text.decode("utf-8") for text in example["targets_text"].tolist()]
        return References(texts, context)
    return ReplyFrame.from_context(context).content(output)


def tk_instruct_renderer(render: Callable[..., Any], **options) -> Callable[[Tokenizer], Renderer]:
    """Binds a renderer with a token budget, such as `tk_instruct.render`, to its options."""
    return functools.partial(_bind, render, options)


def _bind(render: Callable[..., Any], options: Mapping[str, Any], tokenizer: Tokenizer) -> Renderer:
    return functools.partial(render, tokenizer=tokenizer, **options)
