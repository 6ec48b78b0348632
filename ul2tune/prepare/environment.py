"""What the shipped modules under `tasks` take from the environment: your copies of public files."""

from __future__ import annotations

import math
import os
from pathlib import Path

import seqio

from ul2tune.data.documents import FileCorpus
from ul2tune.data.stamp import DEFAULT_VOCABULARY, TEXT, TRAINED, VOCABULARY
from ul2tune.nearest import did_you_mean
from ul2tune.prepare.task_modules import import_modules
from ul2tune.prepare.tasks import VocabularyLike, seqio_vocabulary


def folder(variable: str, layout: str) -> str:
    """The folder that an environment variable names.

    Args:
      variable: such as ``"UL2TUNE_MMLU"``.
      layout: what is in the folder, for the error.

    Raises:
      ValueError: if the variable is not set, or names no folder.
    """
    found = os.environ.get(variable)
    if not found:
        raise ValueError(
            f"These tasks need your copy of the collection's files: set the environment variable "
            f"{variable} to the folder that has {layout} in it."
        )
    if not Path(found).is_dir():
        raise ValueError(
            f"{variable} is {found!r}, which is no folder (working directory {Path.cwd()}): set it "
            f"to the one that has {layout} in it."
        )
    return found


def number(variable: str, default: float) -> float:
    """The number that an environment variable holds.

    Raises:
      ValueError: if it is none.
    """
    text = os.environ.get(variable)
    try:
        found = float(text) if text else default
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{variable} is {text!r}: give a number.")
    return found


def registered(variable: str, place: str) -> str:
    """Imports the module of a place ``module:mixture``; returns the mixture that it registers.

    Args:
      variable: the environment variable that the place is from, for the error.
      place: such as ``"tasks.superni:superni"``.

    Raises:
      ValueError: if the place has another form, there is no such module, or it fails or registers
        no such mixture or task.
    """
    module, _, mixture = place.partition(":")
    if not module or not mixture:
        raise ValueError(
            f"{variable} names {place!r}: give MODULE:MIXTURE, such as tasks.superni:superni."
        )
    import_modules([module], variable)
    known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
    if mixture not in known:
        raise ValueError(
            f"{variable} names {place!r}, but {module} registers no mixture or task {mixture!r}"
            f"{did_you_mean(mixture, known)}."
        )
    return mixture


def vocabulary() -> VocabularyLike:
    """The model's vocabulary: ``UL2TUNE_VOCABULARY``, or that of the demo.

    The variable holds what `ul2tune.data.vocab.load` takes: ``"bytes"``, the path of a
    SentencePiece model or of a tokenizer.json, of an imported MODEL_DIR, or of a JSON description,
    for example of an extended vocabulary. Or it is ``"trained"``: the vocabulary trained on the
    text that ``UL2TUNE_TEXT`` names (JSON lines with "text"), the same that
    `prepare.tasks.register_text_task` with these files trains.

    Raises:
      ValueError: if it is ``"trained"`` and there is no text.
    """
    found = os.environ.get(VOCABULARY) or DEFAULT_VOCABULARY
    if found != TRAINED:
        return found
    text = os.environ.get(TEXT)
    if not text:
        raise ValueError(
            f"{VOCABULARY} is {TRAINED!r}, which needs the text to train it on: set {TEXT} to the "
            f'files (JSON lines with "text"), or {VOCABULARY} to a vocabulary that is there.'
        )
    return seqio_vocabulary(TRAINED, FileCorpus(files=text, format="jsonl"))
