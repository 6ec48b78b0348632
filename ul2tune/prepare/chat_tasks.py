"""Registering conversations from a folder of their files.

*.jsonl, *.json       conversations (`ul2tune.instructions.chat`), a task per file
chat_format.json      texts around each role's messages, or
chat_template.jinja   a model's template, or
tokenizer_config.json the same inside its tokenizer's configuration; or none: plain names
"""

from __future__ import annotations

import re
from pathlib import Path

import seqio

from ul2tune.instructions import chat, chat_template
from ul2tune.instructions.chat import Style, Turns
from ul2tune.instructions.row_files import RowFile
from ul2tune.prepare.chat_renderer import ChatRenderer, tokenize
from ul2tune.prepare.record_tasks import register_record_task
from ul2tune.prepare.tasks import VocabularyLike, seqio_vocabulary

MAX_TOKENS = 1024
# In this order; tokenizer_config.json beside chat_template.jinja only names the special tokens.
_STYLES = ("chat_format.json", "chat_template.jinja", "tokenizer_config.json")
_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json")


def register_chat(
    folder: str | Path,
    *,
    name: str = "chat",
    style: Style | None = None,
    turns: Turns = "all",
    max_tokens: int | None = MAX_TOKENS,
    validation: float = 0.02,
    eos: tuple[str, ...] | None = None,
    vocabulary: VocabularyLike = "stdlib",
) -> tuple[str, ...]:
    """Registers ``<name>_<file>`` per file, and the mixture `name` in which every reply counts.

    Args:
      folder: see above.
      name: of the mixture.
      style: writes conversations; None = what the folder has, or `chat.PLAIN`.
      turns: "all" replies of a conversation are examples, or the "last" only.
      max_tokens: longer prompts lose their oldest turns; give the length of `inputs`. None = the
        feed cuts them at their end, where the question is.
      validation: share of conversations held out.
      eos: features that end with end of sequence. None = ``("targets",)`` where a model's own
        template writes the prompts, which then end as Transformers' `apply_chat_template` has them;
        else both, as T5's do: give ``("targets",)`` for decoder-only models.
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`.

    Returns:
      the mixture's name and the tasks'.

    Raises:
      ValueError: if the folder has no conversations, two files would be one task, or the style
        cannot be read.
    """
    folder = Path(folder)
    paths = [
        path
        for path in sorted(folder.glob("*.json*"))
        if path.name.endswith(_ENDINGS) and path.name not in _STYLES
    ]
    if not paths:
        raise ValueError(f"{folder} has no conversations (*.jsonl or *.json).")
    style = style or load_style(folder)
    if eos is None:
        own = isinstance(style, chat_template.ChatTemplate)
        eos = ("targets",) if own else ("inputs", "targets")
    wrapped = seqio_vocabulary(vocabulary)
    render = ChatRenderer(style=style, max_tokens=max_tokens, vocabulary=wrapped)
    tasks: dict[str, Path] = {}
    for path in paths:
        task = f"{name}_{re.sub(r'[^0-9a-zA-Z_]', '_', path.name.split('.json')[0])}"
        if task in tasks:
            raise ValueError(f"{tasks[task]} and {path} would both be task {task!r}. Rename one.")
        tasks[task] = path
        corpus = RowFile(path=str(path), parse=chat.parser(turns), validation=validation)
        register_record_task(task, corpus, render, vocabulary=wrapped, eos=eos, tokenize=tokenize)
    seqio.MixtureRegistry.add(name, list(tasks), default_rate=seqio.mixing_rate_num_examples)
    return (name, *tasks)


def load_style(path: str | Path) -> Style:
    """The style in a file, or in a folder's file of a known name; plain if it has none.

    Raises:
      ValueError: if the file is malformed, or its template needs what the sandbox has not.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in _STYLES if (path / name).exists()]
        if not found:
            return chat.PLAIN
        path = found[0]
    if path.suffix == ".jinja" or path.name == "tokenizer_config.json":
        return chat_template.load(path)
    return chat.load_format(path)
