"""The embedded instruction set: one task per type, and the mixtures the demo tunes and evaluates.

stdlib_instructions                  trained types: split `train`, and held-out examples
stdlib_instructions_supervised_eval  the held-out examples (split `validation`) of these types
stdlib_instructions_heldout_eval     types that are not trained on (split `validation` only)
"""

from __future__ import annotations

import seqio

from ul2tune.instructions import stdlib_instructions, tk_instruct
from ul2tune.instructions.tk_instruct import TkInstruct
from ul2tune.prepare.record_tasks import register_record_task, tk_instruct_renderer

# Short prompts for small models: the definition and the query.
render = tk_instruct_renderer(
    tk_instruct.render, encodings=(TkInstruct(positive=0, max_tokens=128),)
)

for held_out in (False, True):
    for name in stdlib_instructions.task_names(held_out=held_out):
        register_record_task(name, stdlib_instructions.StdlibTask(name=name), render)

MIXTURES = {
    "stdlib_instructions": False,
    "stdlib_instructions_supervised_eval": False,
    "stdlib_instructions_heldout_eval": True,
}
for mixture, held_out in MIXTURES.items():
    names = stdlib_instructions.task_names(held_out=held_out)
    seqio.MixtureRegistry.add(mixture, list(names), default_rate=1.0)
