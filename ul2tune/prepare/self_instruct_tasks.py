"""Registering generated instructions (Self-Instruct, Alpaca, Unnatural Instructions) from a folder.

    seed_tasks.jsonl                   <name>_seed            175 tasks of people, to train on
    all_instances*.jsonl               <name>_generated       instances of a model, to train on
    user_oriented_instructions.jsonl   <name>_user_oriented   252 tasks, to evaluate on
    alpaca_data*.json                  alpaca
    core_data.jsonl, full_data.jsonl   unnatural_core, unnatural_full
    prepare_for_finetuning.py or encoding_templates.json      Self-Instruct's templates

Files are found by these names, those of the public repositories; what is absent is left out.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import seqio

from ul2tune.instructions import alpaca, self_instruct, unnatural
from ul2tune.instructions.records import Renderer
from ul2tune.instructions.row_files import Parser, RowFile
from ul2tune.instructions.self_instruct import Templates
from ul2tune.prepare.record_tasks import register_record_task
from ul2tune.prepare.suites_tasks import fixed
from ul2tune.prepare.tasks import VocabularyLike

_TEMPLATES = ("prepare_for_finetuning.py", "encoding_templates.json")
# The authors remove a leading field name from half of the inputs.
LABEL_DROP = 0.5
_VALIDATION = 0.02


def register_self_instruct(
    folder: str | Path,
    *,
    name: str = "self_instruct",
    templates: Templates | None = None,
    vocabulary: VocabularyLike = "stdlib",
    seed: int = 0,
) -> tuple[str, ...]:
    """Registers a task per file, and the mixture `name` of Self-Instruct's training tasks.

    In the mixture every example counts the same.

    Args:
      folder: your copies of the files.
      name: of the mixture; Alpaca's and Unnatural's tasks are called after it too if it is not
        "self_instruct".
      templates: of Self-Instruct; None = those of the folder, or one plain pair (with a note).
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`.
      seed: of the draws of templates.

    Returns:
      the names registered, the mixture's first if there is one.

    Raises:
      ValueError: if the folder has none of the files, or its templates are malformed.
    """
    folder = Path(folder)
    prefix = "" if name == "self_instruct" else f"{name}_"
    rows = (
        (f"{name}_seed", "seed_tasks.jsonl", self_instruct.parse, 0.0),
        (f"{name}_generated", "all_instances*.jsonl", self_instruct.parse, _VALIDATION),
        (f"{name}_user_oriented", "user_oriented_instructions.jsonl", self_instruct.parse, 1.0),
        (f"{prefix}alpaca", "alpaca_data*.json", alpaca.parse, _VALIDATION),
        (f"{prefix}unnatural_core", "core_data.jsonl", unnatural.parse, _VALIDATION),
        (f"{prefix}unnatural_full", "full_data.jsonl", unnatural.parse, _VALIDATION),
    )
    found = [row for row in rows if any(folder.glob(row[1]))]
    if not found:
        patterns = ", ".join(row[1] for row in rows)
        raise ValueError(f"{folder} has none of the files {patterns}.")
    if templates is None and any(parse is self_instruct.parse for *_, parse, _ in found):
        templates = _templates(folder)
    for task, pattern, parse, validation in found:
        path = _only(folder, pattern)
        corpus = RowFile(path=path, parse=parse, validation=validation, group_by="instruction")
        render = fixed(_renderer(parse, validation, templates))
        register_record_task(task, corpus, render, vocabulary=vocabulary, seed=seed)
    tasks = [row[0] for row in found]
    trained = [task for task in tasks if task in (f"{name}_seed", f"{name}_generated")]
    if not trained:
        return tuple(tasks)
    seqio.MixtureRegistry.add(name, trained, default_rate=seqio.mixing_rate_num_examples)
    return (name, *tasks)


def _renderer(parse: Parser, validation: float, templates: Templates | None) -> Renderer:
    if parse is alpaca.parse:
        return alpaca.render
    if parse is unnatural.parse:
        return unnatural.render
    assert templates is not None
    label_drop = 0.0 if validation == 1.0 else LABEL_DROP
    return functools.partial(self_instruct.render, templates=templates, label_drop=label_drop)


def _templates(folder: Path) -> Templates:
    for name in _TEMPLATES:
        if (folder / name).exists():
            return self_instruct.load_templates(folder / name)
    print(
        f"Note: {folder} has neither {' nor '.join(_TEMPLATES)}: one plain template with input and "
        f"one without are used in place of the authors' thirteen.",
        file=sys.stderr,
    )
    return self_instruct.DEFAULT


def _only(folder: Path, pattern: str) -> str:
    paths = sorted(folder.glob(pattern))
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise ValueError(f"{folder} has several files {pattern}: {names}. Leave one there.")
    return str(paths[0])
