"""BIG-Bench Hard from your own copy of its files.

    UL2TUNE_BBH=/data/bbh ul2tune evaluate --gin_file=data/bbh.gin …

registers

    bbh_cot      3 worked chains of thought
    bbh_direct   3 worked answers

`UL2TUNE_VOCABULARY` names the model's vocabulary: the path of a SentencePiece model or of a JSON
description (see `ul2tune.data.vocab.load`), or "bytes"; default "stdlib", the demo's.
"""

from __future__ import annotations

import os

from ul2tune.prepare.suites_tasks import register_bbh

folder = os.environ.get("UL2TUNE_BBH")
if not folder:
    raise ValueError(
        "tasks.bbh needs your copy of the files: set the environment variable UL2TUNE_BBH to "
        "the folder that has bbh/ and cot-prompts/ in it."
    )
register_bbh(folder, vocabulary=os.environ.get("UL2TUNE_VOCABULARY", "stdlib"))
