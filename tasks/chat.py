"""Conversations from a folder of your own.

    UL2TUNE_CHAT=/data/conversations ul2tune prepare --gin_file=data/chat.gin …

registers the mixture `chat` and a task per file (docs/self_instruct.md). The folder's template is
used, or the one that UL2TUNE_CHAT_TEMPLATE names. Prompts are kept within 1,024 tokens; for other
lengths, the last reply only, or a decoder-only model without a template of its own call
`ul2tune.prepare.chat_tasks.register_chat` from a module of yours. `UL2TUNE_VOCABULARY`
names the model's vocabulary.
"""

from __future__ import annotations

import os

from ul2tune.prepare import environment
from ul2tune.prepare.chat_tasks import load_style, register_chat

folder = environment.folder("UL2TUNE_CHAT", "*.jsonl of conversations")
register_chat(
    folder,
    style=load_style(os.environ.get("UL2TUNE_CHAT_TEMPLATE") or folder),
    vocabulary=environment.vocabulary(),
)
