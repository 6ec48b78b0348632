"""Registering tasks in a few lines.

    # my_tasks.py, named in TASK_MODULES
    from ul2tune.prepare.tasks import register_text_task

    register_text_task("notes", "~/notes/*.jsonl.gz", format="jsonl", objective="ul2")

That is a SeqIO task like any other: train on it with ``MIXTURE_OR_TASK_NAME = "notes"``, put it in
a `seqio.Mixture`, or read it with `seqio.get_mixture_or_task("notes").get_dataset(…)`.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import seqio

from ul2tune.data import vocab
from ul2tune.data.documents import Corpus, FileCorpus, Format
from ul2tune.data.stdlib_corpus import StdlibCorpus
from ul2tune.data.ul2 import UL2Config, preset
from ul2tune.data.vocab import Vocabulary
from ul2tune.data.vocab_training import VocabularyConfig, trained_vocabulary
from ul2tune.prepare import python_steps
from ul2tune.prepare.preprocessors import UL2Preprocessor
from ul2tune.prepare.runtime import tf
from ul2tune.prepare.seqio_vocab import SeqioVocabulary
from ul2tune.prepare.sources import DocumentSource

_unread: weakref.WeakValueDictionary[str, SeqioVocabulary] = weakref.WeakValueDictionary()

VocabularyLike = str | Path | Vocabulary | VocabularyConfig | SeqioVocabulary


def register_text_task(
    name: str,
    files: str | Sequence[str],
    *,
    format: Format = "text",
    text_key: str = "text",
    vocabulary: VocabularyLike = "stdlib",
    objective: str | UL2Config | None = "ul2",
    validation_fraction: float = 0.02,
) -> seqio.Task:
    """Registers a task over text files. Nothing is read until the task is used.

    Args:
      name: the task's name.
      files: paths or globs, local or remote, ``.gz`` and ``.zst`` too.
      format: ``"text"`` one document per file, ``"documents"`` one per block between blank lines,
        ``"jsonl"`` one per line under `text_key`.
      text_key: key of the text in JSON lines.
      vocabulary: as for :func:`seqio_vocabulary`.
      objective: as for :func:`register_corpus_task`.
      validation_fraction: share of the documents held out as split ``"validation"``.

    Returns:
      the registered task.
    """
    patterns = files if isinstance(files, str) else tuple(files)
    corpus = FileCorpus(files=patterns, format=format, text_key=text_key)
    return register_corpus_task(
        name,
        corpus,
        vocabulary=vocabulary,
        objective=objective,
        validation_fraction=validation_fraction,
    )


def register_corpus_task(
    name: str,
    corpus: Corpus,
    *,
    vocabulary: VocabularyLike = "stdlib",
    objective: str | UL2Config | None = "ul2",
    validation_fraction: float = 0.02,
) -> seqio.Task:
    """Registers a task over any corpus.

    Args:
      name: the task's name.
      corpus: the documents.
      vocabulary: as for :func:`seqio_vocabulary`.
      objective: a UL2 preset's name (``"ul2"``, ``"ul2r"``, ``"t5gemma2"``, ``"span_corruption"``,
        ``"prefix_lm"``, ``"causal_lm"``) or configuration: the task has `inputs` and `targets`.
        None: plain documents as `targets`, for language models.
      validation_fraction: share of the documents held out as split ``"validation"``.
    """
    config = preset(objective) if isinstance(objective, str) else objective
    wrapped = seqio_vocabulary(vocabulary, corpus)
    target = seqio.Feature(vocabulary=wrapped, add_eos=True)
    features = {"targets": target}
    online: Callable = seqio.preprocessors.append_eos_after_trim
    if config is not None:
        online = UL2Preprocessor(config)
        # In the order of all other tasks: SeqIO mixes only tasks that agree on it.
        inputs = dataclasses.replace(target, required=not config.is_causal)
        features = {"inputs": inputs, "targets": target}
    tokenize = functools.partial(tokenize_documents, vocabulary=wrapped)
    return seqio.TaskRegistry.add(
        name,
        source=DocumentSource(corpus, validation_fraction),  # type: ignore[arg-type]
        preprocessors=[tokenize, seqio.CacheDatasetPlaceholder(), online],
        output_features=features,
    )


def tokenize_documents(dataset: tf.data.Dataset, vocabulary: SeqioVocabulary) -> tf.data.Dataset:
    """``{"text", "id"}`` -> ``{"targets", "id"}``; no end of sequence yet."""
    return dataset.map(
        lambda element: {"targets": vocabulary.encode_tf(element["text"]), "id": element["id"]}
    )


def _tokenize_documents(_: Mapping[str, Any], vocabulary: SeqioVocabulary) -> Callable:
    return lambda element: {"targets": vocabulary.ids(element["text"]), "id": element["id"]}


python_steps.TWINS[tokenize_documents] = _tokenize_documents


def seqio_vocabulary(vocabulary: VocabularyLike, corpus: Corpus | None = None) -> SeqioVocabulary:
    """A vocabulary for features, made when first used. The tasks that a module registers with the
    same description share one.

    Args:
      vocabulary: ``"stdlib"``, trained on the embedded corpus (4,096 rows, loses no character);
        ``"bytes"``; ``"trained"``, the same settings trained on `corpus`, or a `VocabularyConfig`
        to choose them; the path of a SentencePiece model; or a vocabulary.
      corpus: what ``"trained"`` learns from.
    """
    if isinstance(vocabulary, SeqioVocabulary):
        return vocabulary
    if isinstance(vocabulary, Vocabulary):
        return SeqioVocabulary(vocabulary)
    if vocabulary == "stdlib":
        return _shared("stdlib", functools.partial(trained_vocabulary, StdlibCorpus()))
    config = VocabularyConfig() if vocabulary == "trained" else vocabulary
    if isinstance(config, VocabularyConfig):
        if corpus is None:
            raise ValueError("A trained vocabulary needs a corpus to learn from.")
        return SeqioVocabulary(functools.partial(trained_vocabulary, corpus, config))
    return _shared(f"file {config}", functools.partial(vocab.load, config))


def _shared(description: str, make: Callable[[], Vocabulary]) -> SeqioVocabulary:
    """The one of this description that is not read yet: 450 copies of Llama's would be many
    gigabytes. What is read stays with those who have it, as its files may have changed since."""
    found = _unread.get(description)
    if found is None or found.is_read:
        found = _unread[description] = SeqioVocabulary(make)
    return found
