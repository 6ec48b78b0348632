"""Super-NaturalInstructions for a small model that starts from nothing: docs/results.md.

Registers, with the environment of `tasks.superni`,

    superni_small        training tasks of the official split: definition and one example
    superni_small_eval   official test tasks, of whose text nothing is trained on
    ul2_superni_small    UL2 denoising of the training tasks' own text

all with a vocabulary of 4,096 rows trained on the training tasks' text.
"""

from __future__ import annotations

from ul2tune.data.vocab_training import trained_vocabulary
from ul2tune.instructions.tk_instruct import TkInstruct
from ul2tune.prepare import environment
from ul2tune.prepare.superni_tasks import register_superni, training_text
from ul2tune.prepare.tasks import register_corpus_task

folder = environment.folder("UL2TUNE_SUPERNI", "tasks/ and splits/")
text = training_text(folder)
vocabulary = trained_vocabulary(text)
register_superni(
    folder,
    name="superni_small",
    encodings=(TkInstruct(positive=1, max_tokens=384),),
    vocabulary=vocabulary,
)
register_corpus_task("ul2_superni_small", text, vocabulary=vocabulary, objective="ul2")
