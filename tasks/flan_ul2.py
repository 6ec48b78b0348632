"""Instructions and UL2 denoising in one mixture, for encoder-decoders.

    UL2TUNE_INSTRUCTIONS=tasks.flan:flan2022 UL2TUNE_TEXT="/data/text/*.jsonl" \
    UL2TUNE_DENOISING_PERCENT=25 ul2tune prepare --gin_file=data/flan_ul2.gin …

registers

    flan_ul2            denoisers announce themselves by mode tokens, as in UL2
    flan_ul2_no_modes   nothing is announced: instructions and denoising look alike, which is how
                        Flan-UL2's model was made to forget the tokens before it was tuned

UL2TUNE_INSTRUCTIONS names the module that registers the instructions, and their mixture;
UL2TUNE_TEXT your text (JSON lines with "text"); UL2TUNE_DENOISING_PERCENT the share of examples
that are denoised text (default 10), in the instructions' vocabulary. Prompts carry no mode token in
either mixture.

Without these variables: the embedded instruction set and the embedded corpus.
"""

from __future__ import annotations

import os
from typing import cast

import seqio

from ul2tune.data.documents import FileCorpus
from ul2tune.data.stdlib_corpus import StdlibCorpus
from ul2tune.data.ul2 import preset
from ul2tune.prepare import environment
from ul2tune.prepare.mixtures import register_with_text
from ul2tune.prepare.seqio_vocab import SeqioVocabulary
from ul2tune.prepare.tasks import register_corpus_task

INSTRUCTIONS = "UL2TUNE_INSTRUCTIONS"

instructions = environment.registered(
    INSTRUCTIONS, os.environ.get(INSTRUCTIONS, "tasks.stdlib_instructions:stdlib_instructions")
)
percent = environment.number("UL2TUNE_DENOISING_PERCENT", 10.0)
# The text is in the instructions' vocabulary, whatever that is.
feature = seqio.get_mixture_or_task(instructions).output_features["targets"]
vocabulary = cast(SeqioVocabulary, feature.vocabulary)
files = os.environ.get("UL2TUNE_TEXT")
corpus = FileCorpus(files=files, format="jsonl") if files else StdlibCorpus()
for name, objective in (
    ("flan_ul2", preset("ul2")),
    ("flan_ul2_no_modes", preset("ul2").without_modes()),
):
    register_corpus_task(f"{name}_text", corpus, objective=objective, vocabulary=vocabulary)
    register_with_text(name, instructions, f"{name}_text", percent)
