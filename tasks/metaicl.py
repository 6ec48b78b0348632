"""MetaICL from your own copy of its prepared files.

    UL2TUNE_METAICL=/data/metaicl ul2tune prepare --gin_file=data/metaicl.gin …

registers one task per folder and the mixtures

    metaicl                     meta-training: 16 demos of the same task before every query, direct
    metaicl_eval                the test files of seed 100, with the 16 training examples of that
                                seed as demos
    metaicl_eval_seeds          the test files of seeds 100, 13, 21, 42 and 87
    metaicl_channel, metaicl_channel_eval, metaicl_channel_eval_seeds
                                the same for the channel model: the input given the answer
    metaicl_pmi_eval_seeds      the direct model, less what it says of the input "N/A"

UL2TUNE_METAICL_SETTING names a JSON file with the lists of training and test tasks (hr_to_lr.json),
UL2TUNE_VOCABULARY the model's vocabulary (`ul2tune.prepare.environment.vocabulary`).
For Zipf-sampled demos, suffix loss or other numbers of demos write a module that calls
`ul2tune.prepare.metaicl_tasks.register_metaicl`.
"""

from __future__ import annotations

import os

from ul2tune.instructions.metaicl import MetaICL
from ul2tune.prepare import environment
from ul2tune.prepare.metaicl_tasks import register_metaicl, register_metaicl_seeds

folder = environment.folder("UL2TUNE_METAICL", "a folder of .jsonl files per task")
setting = os.environ.get("UL2TUNE_METAICL_SETTING")
vocabulary = environment.vocabulary()
for name, config in (
    ("metaicl", MetaICL()),
    ("metaicl_channel", MetaICL(method="channel")),
    ("metaicl_pmi", MetaICL(pmi=True)),
):
    if not config.pmi:  # trains as the direct model does
        register_metaicl(folder, name=name, setting=setting, config=config, vocabulary=vocabulary)
    register_metaicl_seeds(
        folder, name=f"{name}_eval_seeds", setting=setting, config=config, vocabulary=vocabulary
    )
