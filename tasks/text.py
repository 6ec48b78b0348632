"""Plain text: the embedded corpus as documents, without noise."""

from __future__ import annotations

from ul2tune.data.stdlib_corpus import StdlibCorpus
from ul2tune.prepare.tasks import register_corpus_task

register_corpus_task("stdlib_text", StdlibCorpus(), objective=None)
