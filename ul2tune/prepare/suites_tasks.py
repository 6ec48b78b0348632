"""Registering the evaluation suites MMLU, BIG-Bench Hard and GSM8K from folders of their files.

Each task has a split ``validation`` (the suite's test questions), GSM8K also ``train``. Folders'
layouts are described where they are read: `ul2tune.instructions.suites.{mmlu,bbh,gsm8k}`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import seqio

from ul2tune.instructions.records import Renderer
from ul2tune.instructions.suites import bbh, gsm8k, mmlu
from ul2tune.instructions.suites.bbh import BbhTask
from ul2tune.instructions.suites.gsm8k import Gsm8k
from ul2tune.instructions.suites.mmlu import Subject
from ul2tune.instructions.tokenizer import Tokenizer
from ul2tune.prepare.record_tasks import register_record_task, tk_instruct_renderer
from ul2tune.prepare.tasks import VocabularyLike


def register_mmlu(
    folder: str | Path,
    *,
    name: str = "mmlu",
    vocabulary: VocabularyLike = "stdlib",
    shots: int = 5,
    max_tokens: int = mmlu.MAX_TOKENS,
) -> tuple[str, str]:
    """Registers a task per subject and two mixtures of all of them.

    Args:
      folder: the CSV files.
      name: of the mixture whose answers are letters; ``<name>_text`` ranks the choices' texts.
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`; counts the prompts' tokens.
      shots: worked examples.
      max_tokens: prompts that are longer lose worked examples.

    Returns:
      The names of the two mixtures.
    """
    render = tk_instruct_renderer(mmlu.render, shots=shots, max_tokens=max_tokens)
    mixtures = name, f"{name}_text"
    for mixture, answers in zip(mixtures, ("letters", "texts"), strict=True):
        names = []
        for subject in mmlu.subjects(folder):
            corpus = Subject(folder=str(folder), subject=subject, answers=answers)
            names.append(f"{mixture}_{subject}")
            register_record_task(names[-1], corpus, render, vocabulary=vocabulary)
        seqio.MixtureRegistry.add(mixture, names, default_rate=1.0)
    return mixtures


def register_bbh(
    folder: str | Path, *, name: str = "bbh", vocabulary: VocabularyLike = "stdlib"
) -> tuple[str, str]:
    """Registers every task twice and returns the mixtures' names.

    Args:
      folder: the folder that has bbh/ and cot-prompts/ in it.
      name: ``<name>_cot`` are the chains of thought, ``<name>_direct`` the answers alone.
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`.
    """
    mixtures = f"{name}_cot", f"{name}_direct"
    for mixture, chain_of_thought in zip(mixtures, (True, False), strict=True):
        render = functools.partial(bbh.render, chain_of_thought=chain_of_thought)
        names = []
        for task in bbh.task_names(folder):
            names.append(f"{mixture}_{task}")
            corpus = BbhTask(folder=str(folder), task=task)
            register_record_task(names[-1], corpus, fixed(render), vocabulary=vocabulary)
        seqio.MixtureRegistry.add(mixture, names, default_rate=1.0)
    return mixtures


def register_gsm8k(
    folder: str | Path,
    *,
    name: str = "gsm8k",
    vocabulary: VocabularyLike = "stdlib",
    annotated: bool = True,
    shots: int = 8,
    seed: int = 0,
) -> tuple[str, str]:
    """Registers two tasks and returns their names.

    Args:
      folder: the folder that has train.jsonl and test.jsonl in it.
      name: of the task that trains on solutions, without exemplars; ``<name>_cot`` is the few-shot
        chain of thought.
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`.
      annotated: keep ``<<48/2=24>>`` in the solutions.
      shots: exemplars of the chain of thought, drawn from the training file.
      seed: of this draw.
    """
    corpus = Gsm8k(folder=str(folder))
    solutions = fixed(functools.partial(gsm8k.render, annotated=annotated))
    register_record_task(name, corpus, solutions, vocabulary=vocabulary)
    test = Gsm8k(folder=str(folder), with_train=False)
    chains = functools.partial(_chains, test, shots)
    register_record_task(f"{name}_cot", test, chains, vocabulary=vocabulary, seed=seed)
    return name, f"{name}_cot"


def fixed(render: Renderer) -> Callable[[Tokenizer], Renderer]:
    """For `register_record_task`: a renderer that counts no tokens."""
    return functools.partial(_fixed, render)


def _fixed(render: Renderer, tokenizer: Tokenizer) -> Renderer:
    del tokenizer
    return render


def _chains(corpus: Gsm8k, shots: int, tokenizer: Tokenizer) -> Renderer:
    del tokenizer
    pool = gsm8k.demo_pool(corpus.folder)
    return functools.partial(gsm8k.render_cot, pool=pool, shots=shots)
