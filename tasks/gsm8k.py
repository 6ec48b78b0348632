"""GSM8K from your own copy of its files.

    UL2TUNE_GSM8K=/data/gsm8k ul2tune evaluate --gin_file=data/gsm8k.gin …

registers

    gsm8k       question -> solution with calculator annotations and "#### number"
    gsm8k_cot   8 worked chains of thought from the training file; test questions only

`UL2TUNE_VOCABULARY` names the model's vocabulary: the path of a SentencePiece model or of a JSON
description (see `ul2tune.data.vocab.load`), or "bytes"; default "stdlib", the demo's.
"""

from __future__ import annotations

import os

from ul2tune.prepare.suites_tasks import register_gsm8k

folder = os.environ.get("UL2TUNE_GSM8K")
if not folder:
    raise ValueError(
        "tasks.gsm8k needs your copy of the files: set the environment variable UL2TUNE_GSM8K to "
        "the folder that has train.jsonl and test.jsonl in it."
    )
register_gsm8k(folder, vocabulary=os.environ.get("UL2TUNE_VOCABULARY", "stdlib"))
