"""OPT-IML over collections that are registered already, whatever they are.

Their tasks are registered again in OPT-IML's form (delimiters; a target that begins with the space;
end of sequence after the target alone) and mixed at OPT-IML's rates. Train them with layout
"causal_lm".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import seqio

from ul2tune.data.documents import Corpus
from ul2tune.data.rates import Leaf
from ul2tune.data.ul2 import preset
from ul2tune.instructions import opt_iml
from ul2tune.instructions.records import Renderer
from ul2tune.instructions.tokenizer import Tokenizer
from ul2tune.prepare.chat_renderer import ChatRenderer
from ul2tune.prepare.mixtures import register_mixture
from ul2tune.prepare.record_tasks import RecordSource, register_record_task
from ul2tune.prepare.tasks import VocabularyLike, register_corpus_task, seqio_vocabulary

# Benchmarks with one instruction per task, which is told apart from the instance.
TASK_LEVEL = ("niv2",)


def register_opt_iml(
    name: str,
    benchmarks: Mapping[str, Sequence[str]],
    *,
    reasoning: Sequence[str] = (),
    pretraining: Sequence[str] = (),
    proportions: Mapping[str, float] = opt_iml.PROPORTIONS,
    cap: float | None = opt_iml.CAP,
    demos: int = 0,
    vocabulary: VocabularyLike | None = None,
) -> seqio.Mixture:
    """Registers the mixture and OPT-IML's version of every task in it, ``<name>_<task>``.

    Args:
      name: of the mixture.
      benchmarks: tasks or mixtures of each benchmark; keys of `proportions`. Those of `TASK_LEVEL`
        are rendered from their records, the others keep their own prompts.
      reasoning: reasoning tasks or mixtures.
      pretraining: text tasks, see :func:`register_pretraining`; used as they are.
      proportions, cap: see `opt_iml.mixture`.
      demos: worked examples in the prompts of `TASK_LEVEL` benchmarks.
      vocabulary: of all tasks, as for `prepare.tasks.seqio_vocabulary`; None = each task's own.

    Returns:
      the registered mixture.

    Raises:
      ValueError: if a task is not one of `register_record_task`, or is in two benchmarks.
    """
    taken: set[str] = set()

    def again(names: Sequence[str], benchmark: str) -> list[Leaf]:
        tasks = {t.name: t for n in names for t in seqio.get_subtasks(seqio.get_mixture_or_task(n))}
        if both := sorted(taken & set(tasks)):
            raise ValueError(f"Task {both[0]!r} is in two benchmarks of {name!r}.")
        taken.update(tasks)
        level = demos if benchmark in TASK_LEVEL else None
        return [
            Leaf(name=_again(task, f"{name}_{task.name}", level, vocabulary))
            for task in tasks.values()
        ]

    tree = opt_iml.mixture(
        name,
        {benchmark: again(names, benchmark) for benchmark, names in benchmarks.items()},
        proportions=proportions,
        cap=cap,
        reasoning=again(reasoning, "reasoning"),
        pretraining=[Leaf(name=task) for task in pretraining],
    )
    return register_mixture(tree)


def register_pretraining(
    name: str, corpus: Corpus, *, vocabulary: VocabularyLike = "stdlib"
) -> seqio.Task:
    """Registers text as OPT-IML trains on it: an empty source, and loss on everything.

    Feed it with ``document_separator="eos"``, which ends documents where they end.
    """
    text = dataclasses.replace(preset("causal_lm"), inputs_eos=False, targets_eos=False)
    return register_corpus_task(name, corpus, vocabulary=vocabulary, objective=text)


def _again(
    task: seqio.Task, name: str, demos: int | None, vocabulary: VocabularyLike | None
) -> str:
    """Registers a task's records once more; returns the new name.

    `demos` is None where the task's own prompts stay.
    """
    source = task.source
    if not isinstance(source, RecordSource):
        raise ValueError(
            f"Task {task.name!r} does not render records (`register_record_task`), so it cannot "
            "be put into OPT-IML's form; text goes into `pretraining`."
        )
    render: Callable[[Tokenizer], Renderer]
    if demos is None:
        make = source.make_renderer
        if isinstance(make, ChatRenderer) and vocabulary is not None:
            # Fingerprints ask the renderer's vocabulary which texts are tokens.
            make = dataclasses.replace(make, vocabulary=seqio_vocabulary(vocabulary))
        render = functools.partial(_delimited, make)
    else:
        render = functools.partial(_task_level, opt_iml.render, demos)
    register_record_task(
        name,
        source.corpus,
        render,
        vocabulary=source.vocabulary if vocabulary is None else vocabulary,
        seed=source.seed,
        eos=("targets",),
        metric_fns=cast(Any, task.metric_fns),
        # The task's own texts need its own step; others are plain.
        tokenize=task.preprocessors[0] if demos is None else seqio.preprocessors.tokenize,
    )
    return name


def _delimited(make: Callable[[Tokenizer], Renderer], tokenizer: Tokenizer) -> Renderer:
    return opt_iml.delimited(make(tokenizer))


def _task_level(render: Callable, demos: int, tokenizer: Tokenizer) -> Renderer:
    return functools.partial(render, demos=demos)
