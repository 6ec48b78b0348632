"""What has to be done for one split of one task: the plan every shard of it shares."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import seqio

from ul2tune.data import files
from ul2tune.data.documents import MAX_REJECTED_FRACTION, FileCorpus
from ul2tune.data.embedding_rows import check_embedding_rows
from ul2tune.data.vocab import Vocabulary
from ul2tune.first_names import first_names
from ul2tune.nearest import did_you_mean
from ul2tune.prepare.identity import identity, source_identity
from ul2tune.prepare.scoring import Scoring, scoring_of
from ul2tune.prepare.seqio_vocab import from_seqio
from ul2tune.prepare.sources import DocumentSource

# To be raised when a new version of this package prepares other bytes from the same task.
VERSION = 3
BYTES_PER_SHARD = 32 * 2**20
MAX_SHARDS = 256
# Each shard of a file reads all of it, which takes some hundredths of the time that tokenizing it
# takes.
SHARDS_PER_FILE = 16
# How many of the registered names an error lists.
_MAX_NAMES = 20
_APPEND_EOS = {
    seqio.preprocessors.append_eos: "before_trim",
    seqio.preprocessors.append_eos_after_trim: "after_trim",
}


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A task's preprocessors, divided into what runs now and what runs while training.

    Attributes:
      offline: run by `prepare`.
      online: JSON configuration of the transform that the feed runs (the UL2 noise), or None.
      append_eos: when the feed appends EOS to features that want it, ``"before_trim"`` (what is too
        long loses it) or ``"after_trim"``; None: never.
    """

    offline: tuple[Callable, ...]
    online: Mapping[str, Any] | None
    append_eos: Literal["before_trim", "after_trim"] | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One split of one task.

    Attributes:
      task: the SeqIO task.
      split: name of the split.
      pipeline: see :class:`Pipeline`.
      vocabulary: of all features.
      num_shards: how many shards there will be; 0 if the task has no such split.
      fingerprint: hash of everything that determines the shards' bytes.
      scoring: what `evaluate` computes.
      max_rejected_fraction: more malformed records than this are an error.
    """

    task: seqio.Task
    split: str
    pipeline: Pipeline
    vocabulary: Vocabulary
    num_shards: int
    fingerprint: str
    scoring: Scoring
    max_rejected_fraction: float

    @property
    def features(self) -> tuple[str, ...]:
        """The features that shards hold: only the raw text where noise makes the others later."""
        online = self.pipeline.online
        return (online["feature"],) if online else tuple(self.task.output_features)

    @property
    def add_eos(self) -> dict[str, bool]:
        """Whether the feed ends each feature with EOS."""
        features = self.task.output_features
        appends = self.pipeline.append_eos is not None
        return {name: appends and features[name].add_eos for name in self.features}


def make_plan(
    task: seqio.Task,
    split: str,
    num_shards: int | None = None,
    max_rejected_fraction: float = MAX_REJECTED_FRACTION,
) -> Plan:
    """Plans one split of one task.

    Raises:
      ValueError: if the task cannot be prepared, saying what to change.
    """
    pipeline = split_pipeline(task)
    vocabulary = vocabulary_of(task)
    if split not in task.splits:
        num_shards = 0
    elif num_shards is None:
        num_shards = default_num_shards(task.source, split)
    facts = {
        "version": VERSION,
        "task": task.name,
        "split": split,
        "num_shards": num_shards,
        "source": source_identity(task.source, split) if num_shards else None,
        "offline": [identity(function) for function in pipeline.offline],
        "features": sorted(task.output_features),
        "vocabulary": vocabulary.fingerprint,
        "text": pipeline.online is None,
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return Plan(
        task=task,
        split=split,
        pipeline=pipeline,
        vocabulary=vocabulary,
        num_shards=num_shards,
        fingerprint=hashlib.sha256(text.encode()).hexdigest()[:16],
        scoring=scoring_of(task),
        max_rejected_fraction=max_rejected_fraction,
    )


def split_pipeline(task: seqio.Task) -> Pipeline:
    """Divides a task's preprocessors at its `CacheDatasetPlaceholder`.

    Without a placeholder everything runs now, but for a final `append_eos*`: the feed trims to the
    run's lengths and must be able to do it before EOS.

    Raises:
      ValueError: if something cannot run on its side of the placeholder.
    """
    steps = list(task.preprocessors)
    placeholders = [
        i for i, step in enumerate(steps) if isinstance(step, seqio.CacheDatasetPlaceholder)
    ]
    if placeholders:
        offline, rest = steps[: placeholders[0]], steps[placeholders[0] + 1 :]
    else:
        cut = len(steps) - bool(steps and _append_eos(steps[-1]))
        offline, rest = steps[:cut], steps[cut:]
    for step in offline:
        _check_offline(task.name, step)
    online: Mapping[str, Any] | None = None
    append_eos = None
    for step in rest:
        if online is None and append_eos is None and _append_eos(step):
            append_eos = _append_eos(step)
        elif online is None and append_eos is None and hasattr(step, "online_config"):
            online = step.online_config(task.output_features)
        else:
            raise ValueError(
                f"Task {task.name!r} runs {_name(step)} after its CacheDatasetPlaceholder. "
                "While training only one UL2Preprocessor (which ends both sides with EOS itself) "
                "or one append_eos can run: move other steps before the placeholder."
            )
    return Pipeline(offline=tuple(offline), online=online, append_eos=append_eos)


def default_num_shards(source: seqio.DataSource, split: str) -> int:
    """A number of shards that depends on the data only, so every machine makes the same files."""
    if isinstance(source, DocumentSource):
        wanted = math.ceil(source.corpus.num_bytes() / BYTES_PER_SHARD)
        if isinstance(source.corpus, FileCorpus):
            wanted = min(wanted, SHARDS_PER_FILE * len(files.expand(source.corpus.files)))
    else:
        wanted = len(source.list_shards(split))
    return max(1, min(wanted, MAX_SHARDS))


def _check_offline(task: str, step: Callable) -> None:
    if hasattr(step, "online_config"):
        raise ValueError(
            f"Task {task!r} runs {_name(step)} before its CacheDatasetPlaceholder or has none: "
            "the noise would be the same in every epoch. Put `seqio.CacheDatasetPlaceholder()` "
            "before it."
        )
    parameter = inspect.signature(step).parameters.get("sequence_length")
    if parameter is not None and parameter.default is inspect.Parameter.empty:
        raise ValueError(
            f"Task {task!r} has {_name(step)}, which needs the run's sequence lengths; they are "
            "not known when data is prepared. The feed trims, packs and denoises itself: drop the "
            "step, or bind a length with functools.partial."
        )


def vocabulary_of(task: seqio.Task) -> Vocabulary:
    """The one vocabulary of a task's features.

    Raises:
      ValueError: if they have several.
    """
    found = {name: from_seqio(f.vocabulary) for name, f in task.output_features.items()}
    if len({vocabulary.fingerprint for vocabulary in found.values()}) != 1:
        raise ValueError(f"Task {task.name!r} has features with different vocabularies: {found}.")
    return next(iter(found.values()))


def check_one_vocabulary(
    mixture: str, tasks: Sequence[seqio.Task], num_rows: int | None = None
) -> None:
    """Refuses a mixture that no model could read, before a big corpus is tokenized for it.

    Raises:
      ValueError: if two tasks have different vocabularies, or theirs has more ids than the model
        that will read them has rows, where that is known.
    """
    first, *others = [(task.name, vocabulary_of(task)) for task in tasks]
    for name, vocabulary in others:
        if vocabulary.fingerprint != first[1].fingerprint:
            shown = [f"{v.to_json()['kind']} {v.fingerprint[:12]}" for v in (first[1], vocabulary)]
            raise ValueError(
                f"Tasks {first[0]!r} and {name!r} of {mixture!r} have different vocabularies "
                f"({shown[0]} and {shown[1]}), but a model has one: register both with the same. "
                f'"trained" alone learns from each task\'s own text; train one on the text of all '
                f'with vocabulary=seqio_vocabulary("trained", FileCorpus(files=(…, …))), see '
                f"docs/data.md."
            )
    if num_rows is not None:
        check_embedding_rows(mixture, first[1].size, num_rows)


def _append_eos(step: Callable) -> Any:
    function = step.func if isinstance(step, functools.partial) else step
    return next((when for known, when in _APPEND_EOS.items() if function is known), None)


def _name(step: Callable) -> str:
    return seqio.utils.function_name(step) or type(step).__name__


def find_tasks(mixture: str) -> Sequence[seqio.Task]:
    """The tasks of a mixture, or the task itself.

    Raises:
      ValueError: if nothing is registered under this name: with the nearest, and what there is.
    """
    # Mixtures first: a collection has tens of them and thousands of tasks.
    names = [*sorted(seqio.MixtureRegistry.names()), *sorted(seqio.TaskRegistry.names())]
    if mixture not in names:
        raise ValueError(
            f"No task or mixture {mixture!r} is registered by TASK_MODULES"
            f"{did_you_mean(mixture, names)}; there are "
            f"{first_names(map(repr, names), _MAX_NAMES) or 'none'}."
        )
    return seqio.get_subtasks(seqio.get_mixture_or_task(mixture))
