"""MetaICL from your own copy of its prepared files.

    UL2TUNE_METAICL=/data/metaicl ul2tune prepare --gin_file=data/metaicl.gin …

registers one task per folder and the mixtures

    metaicl        meta-training: 16 demos of the same task before every query, direct
    metaicl_eval   the test files of seed 100, with the 16 training examples of that seed as demos

UL2TUNE_METAICL_SETTING names a JSON file with the lists of training and test tasks (hr_to_lr.json).
For channel models, Zipf-sampled demos, suffix loss or other seeds write a module that calls
`ul2tune.prepare.metaicl_tasks.register_metaicl`.
"""

from __future__ import annotations

import os

from ul2tune.prepare.metaicl_tasks import register_metaicl

folder = os.environ.get("UL2TUNE_METAICL")
if not folder:
    raise ValueError(
        "tasks.metaicl needs your copy of MetaICL's data: set the environment variable "
        "UL2TUNE_METAICL to the folder that has a folder of .jsonl files per task."
    )
register_metaicl(folder, setting=os.environ.get("UL2TUNE_METAICL_SETTING"))
