"""The UL2 family of objectives over the embedded corpus: one task per preset.

`ul2_stdlib` pretrains (seven denoisers), `ul2r_stdlib` continues (half prefix-LM), the others are
what they are compared with.
"""

from __future__ import annotations

from ul2tune.data.stdlib_corpus import StdlibCorpus
from ul2tune.prepare.tasks import register_corpus_task

for objective in ("ul2", "ul2r", "t5gemma2", "span_corruption", "prefix_lm", "causal_lm"):
    register_corpus_task(f"{objective}_stdlib", StdlibCorpus(), objective=objective)
