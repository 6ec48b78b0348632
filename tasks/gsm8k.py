"""GSM8K from your own copy of its files.

    UL2TUNE_GSM8K=/data/gsm8k ul2tune evaluate --gin_file=data/gsm8k.gin …

registers

    gsm8k       question -> solution with calculator annotations and "#### number"
    gsm8k_cot   8 worked chains of thought from the training file; test questions only

`UL2TUNE_VOCABULARY` names the model's vocabulary, see `ul2tune.prepare.environment.vocabulary`.
"""

from __future__ import annotations

from ul2tune.prepare import environment
from ul2tune.prepare.suites_tasks import register_gsm8k

register_gsm8k(
    environment.folder("UL2TUNE_GSM8K", "train.jsonl and test.jsonl"),
    vocabulary=environment.vocabulary(),
)
