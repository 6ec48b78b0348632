"""Super-NaturalInstructions as Tk-Instruct's `tk_instruct` mode trains: five encodings at random.

Registers one task per file and the mixtures `superni_tk_instruct` and `superni_tk_instruct_eval`;
the environment is that of `tasks.superni`. A training example has the definition, two positive
examples, both, both with two negative examples, or both with explanations; the test tasks have
definition and two positive examples.
"""

from __future__ import annotations

from ul2tune.prepare import environment
from ul2tune.prepare.superni_tasks import TK_INSTRUCT, register_superni

register_superni(
    environment.folder("UL2TUNE_SUPERNI", "tasks/ and splits/"),
    name="superni_tk_instruct",
    encodings=TK_INSTRUCT,
    vocabulary=environment.vocabulary(),
)
