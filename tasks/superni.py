"""Super-NaturalInstructions from your own copy of the repository's files.

    UL2TUNE_SUPERNI=/data/natural-instructions ul2tune prepare --gin_file=data/superni.gin …

registers one task per file and the mixtures

    superni        training tasks of the official split, 100 instances each
    superni_eval   the official test tasks, first 100 instances each

For other choices write a module that calls `ul2tune.prepare.superni_tasks.register_superni`.
"""

from __future__ import annotations

import os

from ul2tune.prepare.superni_tasks import register_superni

folder = os.environ.get("UL2TUNE_SUPERNI")
if not folder:
    raise ValueError(
        "tasks.superni needs your copy of the natural-instructions files: set the environment "
        "variable UL2TUNE_SUPERNI to the folder that has tasks/ and splits/ in it."
    )
register_superni(folder)
