"""Generated instructions from your own copies of their files.

    UL2TUNE_SELF_INSTRUCT=/data/self-instruct ul2tune prepare --gin_file=data/self_instruct.gin …

registers the mixture `self_instruct` and tasks for what is in the folder (docs/self_instruct.md).
`UL2TUNE_VOCABULARY` names the model's vocabulary, see `ul2tune.prepare.environment.vocabulary`.
"""

from __future__ import annotations

from ul2tune.prepare import environment
from ul2tune.prepare.self_instruct_tasks import register_self_instruct

register_self_instruct(
    environment.folder("UL2TUNE_SELF_INSTRUCT", "seed_tasks.jsonl or its like"),
    vocabulary=environment.vocabulary(),
)
