"""PromptSource's prompts and T0's mixtures, over your own copies of templates, table and rows.

    UL2TUNE_PROMPTSOURCE=/data/promptsource/promptsource/templates \
    UL2TUNE_PROMPTSOURCE_ROWS=/data/rows \
    UL2TUNE_T0=/data/t-zero/t0/datasets.csv \
    ul2tune prepare --gin_file=data/t0.gin …

registers a task per data set and template and the mixtures of
`ul2tune.instructions.promptsource.t0.MIXTURES` (`t0_train`, `t0+_train`, `t0++_train`,
`t0_eval_score_eval`, …). Without UL2TUNE_T0: every template
of every data set that there are rows of, and the mixture `promptsource` of all.

`UL2TUNE_VOCABULARY` names the model's vocabulary, see `ul2tune.prepare.environment.vocabulary`.
For other choices (the paper's cap) write a module that calls
`ul2tune.prepare.promptsource_tasks.register_t0`.
"""

from __future__ import annotations

import os
import sys

from ul2tune.prepare import environment
from ul2tune.prepare.promptsource_tasks import register_promptsource, register_t0

templates = os.environ.get("UL2TUNE_PROMPTSOURCE")
rows = os.environ.get("UL2TUNE_PROMPTSOURCE_ROWS")
if not templates or not rows:
    raise ValueError(
        "tasks.promptsource needs two environment variables: UL2TUNE_PROMPTSOURCE, the folder of "
        "PromptSource's templates, and UL2TUNE_PROMPTSOURCE_ROWS, the folder of your rows "
        "(<dataset>[/<subset>]/<split>.jsonl)."
    )
datasets_csv = os.environ.get("UL2TUNE_T0")
if datasets_csv:
    register_t0(templates, rows, datasets_csv, vocabulary=environment.vocabulary())
else:
    print(
        "Note: UL2TUNE_T0 does not name T0's datasets.csv, so there are none of T0's mixtures "
        "(t0_train, …), only 'promptsource'.",
        file=sys.stderr,
    )
    register_promptsource(templates, rows, vocabulary=environment.vocabulary())
