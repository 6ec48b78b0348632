"""MMLU from your own copy of its files.

    UL2TUNE_MMLU=/data/mmlu ul2tune evaluate --gin_file=data/mmlu.gin …

registers

    mmlu        5-shot prompts, answers A-D; scored by first token and by likelihood
    mmlu_text   the same, ranking the texts of the choices

`UL2TUNE_VOCABULARY` names the model's vocabulary, see `ul2tune.prepare.environment.vocabulary`.
"""

from __future__ import annotations

from ul2tune.prepare import environment
from ul2tune.prepare.suites_tasks import register_mmlu

register_mmlu(
    environment.folder("UL2TUNE_MMLU", "dev/ and test/ (or test_csv.tar.gz)"),
    vocabulary=environment.vocabulary(),
)
