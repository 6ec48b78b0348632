"""MMLU from your own copy of its files.

    UL2TUNE_MMLU=/data/mmlu ul2tune evaluate --gin_file=data/mmlu.gin …

registers

    mmlu        5-shot prompts, answers A-D; scored by first token and by likelihood
    mmlu_text   the same, ranking the texts of the choices

`UL2TUNE_VOCABULARY` names the model's vocabulary: the path of a SentencePiece model or of a JSON
description (see `ul2tune.data.vocab.load`), or "bytes"; default "stdlib", the demo's.
"""

from __future__ import annotations

import os

from ul2tune.prepare.suites_tasks import register_mmlu

folder = os.environ.get("UL2TUNE_MMLU")
if not folder:
    raise ValueError(
        "tasks.mmlu needs your copy of the files: set the environment variable UL2TUNE_MMLU to "
        "the folder that has dev/ and test/ (or test_csv.tar.gz) in it."
    )
register_mmlu(folder, vocabulary=os.environ.get("UL2TUNE_VOCABULARY", "stdlib"))
