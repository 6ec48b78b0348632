"""Tokenizing steps in Python: what they do to one element of a source of ours.

`tf.data` takes 0.1 s for the graphs of a task and 2 ms for an instruction with its twenty fields,
several times what reading, rendering and tokenizing it take. Sources that make their elements in
Python (`sources.PythonSource`) and vocabularies that are called back in Python need none of that.
What is prepared is the same to the byte.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio

from ul2tune.prepare.seqio_vocab import SeqioVocabulary
from ul2tune.prepare.sources import PythonSource

Element = Mapping[str, Any]
# Called with the task's features and the step's bound arguments; returns what the step does to one
# element.
Twin = Callable[..., Callable[[Element], Element]]


def tokenize(features: Mapping[str, Any]) -> Callable[[Element], Element]:
    """`seqio.preprocessors.tokenize`."""

    def step(element: Element) -> Element:
        result = dict(element)
        for name in features.keys() & element.keys():
            vocabulary = features[name].vocabulary
            assert isinstance(vocabulary, SeqioVocabulary), "see `find`"
            result[f"{name}_pretokenized"] = element[name]
            result[name] = vocabulary.ids(element[name])
        return result

    return step


# SeqIO step -> the same in Python. Modules that define steps add theirs.
TWINS: dict[Callable, Twin] = {seqio.preprocessors.tokenize: tokenize}


def find(task: seqio.Task, steps: Sequence[Callable]) -> list[Callable[[Element], Element]] | None:
    """The steps of a task as functions of an element; None if one of them needs TensorFlow."""
    source, features = task.source, task.output_features
    if not isinstance(source, PythonSource) or not source.is_text:
        return None
    # A user's subclass may change the data set.
    if type(source).get_dataset is not PythonSource.get_dataset:
        return None
    if not all(isinstance(f.vocabulary, SeqioVocabulary) for f in features.values()):
        return None
    found = []
    for step in steps:
        bound = step if isinstance(step, functools.partial) else functools.partial(step)
        twin = next((twin for known, twin in TWINS.items() if known is bound.func), None)
        if twin is None or bound.args or (twin is tokenize and bound.keywords):
            return None
        found.append(twin(features, **bound.keywords))
    return found
