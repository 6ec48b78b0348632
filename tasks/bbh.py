"""BIG-Bench Hard from your own copy of its files.

    UL2TUNE_BBH=/data/bbh ul2tune evaluate --gin_file=data/bbh.gin …

registers

    bbh_cot      3 worked chains of thought
    bbh_direct   3 worked answers

`UL2TUNE_VOCABULARY` names the model's vocabulary, see `ul2tune.prepare.environment.vocabulary`.
"""

from __future__ import annotations

from ul2tune.prepare import environment
from ul2tune.prepare.suites_tasks import register_bbh

register_bbh(
    environment.folder("UL2TUNE_BBH", "bbh/ and cot-prompts/"),
    vocabulary=environment.vocabulary(),
)
