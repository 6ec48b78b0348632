"""OPT-IML's mixture over the collections at hand, for decoder-only models.

    UL2TUNE_OPT_IML="niv2=tasks.superni:superni,promptsource=tasks.promptsource:t0_train" \
    UL2TUNE_OPT_IML_REASONING=tasks.gsm8k:gsm8k UL2TUNE_TEXT="/data/text/*.jsonl" \
    ul2tune prepare --gin_file=data/opt_iml.gin …

registers the mixture `opt_iml`. UL2TUNE_OPT_IML names, for each benchmark (crossfit, exmix, flan,
niv2, promptsource, t5, unifiedskg), the module that registers it and its mixture or task, several
of them joined by +. UL2TUNE_TEXT names your pretraining text (JSON lines with "text"; 5 %).

UL2TUNE_VOCABULARY is the model's vocabulary for all of it, such as the MODEL_DIR of an imported
OPT; without it every collection keeps its own, which must then be the same.

Without the other variables: the embedded instruction set as niv2, and the embedded corpus.
"""

from __future__ import annotations

import os

from ul2tune.data.documents import FileCorpus
from ul2tune.data.stdlib_corpus import StdlibCorpus
from ul2tune.prepare import environment
from ul2tune.prepare.opt_iml_tasks import register_opt_iml, register_pretraining

COLLECTIONS, REASONING = "UL2TUNE_OPT_IML", "UL2TUNE_OPT_IML_REASONING"


def mixtures(variable: str, places: str) -> list[str]:
    """The mixtures of ``module:mixture+module:mixture``, whose modules are imported."""
    return [environment.registered(variable, place) for place in places.split("+")]


places_of: dict[str, str] = {}
collections = os.environ.get(COLLECTIONS, "niv2=tasks.stdlib_instructions:stdlib_instructions")
for entry in collections.split(","):
    benchmark, equals, places = entry.partition("=")
    if not equals:
        raise ValueError(
            f"{COLLECTIONS} has {entry!r} without a benchmark: give BENCHMARK=MODULE:MIXTURE, such "
            f"as niv2=tasks.superni:superni."
        )
    if benchmark in places_of:
        raise ValueError(
            f"{COLLECTIONS} names {benchmark!r} twice: join its collections by +, as in "
            f"{benchmark}={places_of[benchmark]}+{places}."
        )
    places_of[benchmark] = places
benchmarks = {name: mixtures(COLLECTIONS, places) for name, places in places_of.items()}
reasoning = os.environ.get(REASONING)
files = os.environ.get("UL2TUNE_TEXT")
corpus = FileCorpus(files=files, format="jsonl") if files else StdlibCorpus()
vocabulary = environment.vocabulary()
text = register_pretraining("opt_iml_text", corpus, vocabulary=vocabulary)
register_opt_iml(
    "opt_iml",
    benchmarks,
    reasoning=mixtures(REASONING, reasoning) if reasoning else (),
    pretraining=[text.name],
    vocabulary=vocabulary if os.environ.get(environment.VOCABULARY) else None,
)
