"""UL2R and instruction tuning in the vocabulary of your model.

    UL2TUNE_VOCABULARY=runs/t5/hf/spiece.model ul2tune train --gin_file=recipes/t5_ul2r.gin

UL2TUNE_VOCABULARY is a SentencePiece model, ``bytes`` (ByT5), or a file ``….json`` that describes a
vocabulary with sentinels and modes (`ul2tune.data.vocab.load`; the recipes' headers show theirs).
UL2TUNE_TEXT names your text (JSON lines with "text"); ``trained`` is the vocabulary trained on it
(`ul2tune.prepare.environment.vocabulary`), which the shipped collections take too.

ul2r_own           denoising of the text; without UL2TUNE_TEXT, of the embedded corpus
instructions_own   the embedded instruction set; register your collections likewise
"""

from __future__ import annotations

import os

import seqio

from ul2tune.data.documents import FileCorpus
from ul2tune.data.stdlib_corpus import StdlibCorpus
from ul2tune.instructions import stdlib_instructions, tk_instruct
from ul2tune.instructions.tk_instruct import TkInstruct
from ul2tune.prepare import environment
from ul2tune.prepare.record_tasks import register_record_task, tk_instruct_renderer
from ul2tune.prepare.tasks import register_corpus_task, seqio_vocabulary

files = os.environ.get("UL2TUNE_TEXT")
corpus = FileCorpus(files=files, format="jsonl") if files else StdlibCorpus()
vocabulary = seqio_vocabulary(environment.vocabulary())
register_corpus_task("ul2r_own", corpus, vocabulary=vocabulary, objective="ul2r")

render = tk_instruct_renderer(
    tk_instruct.render, encodings=(TkInstruct(positive=0, max_tokens=128),)
)
names = stdlib_instructions.task_names(held_out=False)
for name in names:
    source = stdlib_instructions.StdlibTask(name=name)
    register_record_task(f"{name}_own", source, render, vocabulary=vocabulary)
seqio.MixtureRegistry.add("instructions_own", [f"{name}_own" for name in names], default_rate=1.0)
