"""Super-NaturalInstructions from your own copy of the repository's files.

    UL2TUNE_SUPERNI=/data/natural-instructions ul2tune prepare --gin_file=data/superni.gin …

registers one task per file and the mixtures

    superni        training tasks of the official split, 100 instances each
    superni_eval   the official test tasks, first 100 instances each

`UL2TUNE_VOCABULARY` names the model's vocabulary, see `ul2tune.prepare.environment.vocabulary`.
`tasks.superni_tk_instruct` mixes five encodings, `tasks.superni_xlingual` is the cross-lingual
track. For other choices write a module that calls
`ul2tune.prepare.superni_tasks.register_superni`.
"""

from __future__ import annotations

from ul2tune.prepare import environment
from ul2tune.prepare.superni_tasks import register_superni

register_superni(
    environment.folder("UL2TUNE_SUPERNI", "tasks/ and splits/"),
    vocabulary=environment.vocabulary(),
)
