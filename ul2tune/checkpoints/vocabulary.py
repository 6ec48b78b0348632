"""The vocabulary that a checkpoint's embedding was trained with: in another, ids mean other words.

Shapes do not show it: models round their rows up, so that many vocabularies fit T5's 32,128.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ul2tune.checkpoints import layout
from ul2tune.data import tokenizer_files, vocab
from ul2tune.data.vocab_base import Vocabulary
from ul2tune.data.vocab_extended import ExtendedVocabulary

log = logging.getLogger(__name__)
# In the JSON of a checkpoint.
KEY = "vocabulary"


def identity(vocabulary: Vocabulary) -> dict[str, Any]:
    """What decides the ids of text, as JSON.

    Sentinels, modes and added tokens lie above those ids. They may come and go: that is how a T5
    gets mode tokens and an extended vocabulary its new rows.
    """
    while isinstance(vocabulary, ExtendedVocabulary):
        vocabulary = vocabulary.base
    described = vocabulary.to_json()
    names = ("kind", "sha256") if "sha256" in described else ("kind", "base_size")
    return {name: described[name] for name in names}


def recorded(step_dir: Path) -> dict[str, Any] | None:
    """The :func:`identity` that a checkpoint was saved with, or that came along when its model was
    imported; None if neither is there."""
    meta = layout.read_meta(step_dir)
    if KEY in meta:
        return meta[KEY]
    came_along = layout.model_dir(step_dir) / tokenizer_files.DESCRIPTION
    return identity(vocab.load(str(came_along))) if came_along.is_file() else None


def carried(step_dirs: Iterable[Path]) -> dict[str, Any]:
    """For the JSON of a checkpoint that is made of others: their vocabulary, if they share one.

    Raises:
      ValueError: if two were trained with different ones.
    """
    said = {step_dir: recorded(step_dir) for step_dir in step_dirs}
    known = {step_dir: facts for step_dir, facts in said.items() if facts is not None}
    for step_dir, facts in known.items():
        first, expected = next(iter(known.items()))
        if facts != expected:
            raise ValueError(
                f"{first} and {step_dir} were trained with different vocabularies "
                f"({words(expected)} and {words(facts)}): their embeddings do not add up."
            )
    return {KEY: next(iter(known.values()))} if known else {}


def check(step_dir: Path, vocabulary: Vocabulary, *, allow: bool, setting: str) -> None:
    """Compares the vocabulary of data or prompts with the checkpoint's.

    Args:
      step_dir: one step's folder.
      vocabulary: the one in use.
      allow: warn only.
      setting: what switches `allow` on, for the message.

    Raises:
      ValueError: if they differ, unless allowed.
    """
    then, now = recorded(step_dir), identity(vocabulary)
    if then is None:
        log.info("%s does not say which vocabulary it was trained with.", step_dir)
    elif then != now:
        differs = (
            f"{step_dir} was trained with another vocabulary ({words(then)}) than the one in use "
            f"({words(now)}): its embedding would be read as other words."
        )
        if not allow:
            model_dir = layout.model_dir(step_dir)
            came_along = (model_dir / tokenizer_files.DESCRIPTION).is_file()
            its = model_dir if came_along else "<what its own was prepared with>"
            raise ValueError(
                f"{differs} Prepare the data with the checkpoint's vocabulary (for the shipped "
                f"tasks: UL2TUNE_VOCABULARY={its}); or, if the ids do mean the same or are to be "
                f"learned anew, set {setting} = True."
            )
        log.warning("%s", differs)


def words(facts: dict[str, Any]) -> str:
    """An :func:`identity`, for people: of a hash, its start."""
    shown = {name: str(value)[:12] if name == "sha256" else value for name, value in facts.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
