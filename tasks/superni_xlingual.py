"""Super-NaturalInstructions' cross-lingual track: the split lists of `splits/xlingual`.

Registers one task per file and the mixtures `superni_xlingual` and `superni_xlingual_eval`; the
environment is that of `tasks.superni`. ROUGE-L counts GPT-2's pieces: set ``UL2TUNE_GPT2_BPE`` to
its `merges.txt` to evaluate.
"""

from __future__ import annotations

from ul2tune.prepare import environment
from ul2tune.prepare.superni_tasks import register_superni

register_superni(
    environment.folder("UL2TUNE_SUPERNI", "tasks/ and splits/"),
    name="superni_xlingual",
    track="xlingual",
    vocabulary=environment.vocabulary(),
)
