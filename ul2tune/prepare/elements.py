"""The elements of a shard after the preprocessors that run now: in Python where all of them can,
else by TensorFlow."""

from __future__ import annotations

import re
import reprlib
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import seqio

from ul2tune.data.documents import Rejections
from ul2tune.prepare import python_steps
from ul2tune.prepare.plan import Plan
from ul2tune.prepare.python_steps import Element
from ul2tune.prepare.runtime import tf
from ul2tune.prepare.sources import DocumentSource, PythonSource

_GRAPH_NODES = re.compile(r"\[\[.*?\]\]|\[Op:\w*\] name:|\{\{.*?\}\}", re.DOTALL)
_PYTHON_FAILED = "Traceback (most recent call last)"


def elements(plan: Plan, shard: int = 0, rejections: Rejections | None = None) -> Iterator[Element]:
    """The elements of one shard after the offline preprocessors: arrays of token ids, and texts as
    `str` or, from TensorFlow, as NumPy values (`fields.to_example` takes both).

    Random preprocessors get seeds that depend on the shard alone. What a source of documents
    rejects is added to `rejections`.

    Raises:
      ValueError: on what TensorFlow finds wrong with the data: a file that is not there, a damaged
        record.
    """
    source = plan.task.source
    if isinstance(source, DocumentSource) and rejections is not None:
        source = source.counting(rejections)
    steps = python_steps.find(plan.task, plan.pipeline.offline)
    if steps is not None and isinstance(source, PythonSource):
        return _in_python(plan, source, shard, steps)
    return _in_tensorflow(plan, source, shard)


def _in_python(
    plan: Plan, source: PythonSource, shard: int, steps: Sequence[Callable[[Element], Element]]
) -> Iterator[Element]:
    for element in source.read(plan.split, shard, plan.num_shards):
        for step in steps:
            element = step(element)
        for name in plan.features:
            if name not in element:
                _check_optional(plan, name, element)
            elif not isinstance(element[name], np.ndarray):  # such as text, not tokenized
                raise _no_ids(plan, name, reprlib.repr(element[name]))
        yield element


def _in_tensorflow(plan: Plan, source: Any, shard: int) -> Iterator[Element]:
    num_shards = plan.num_shards
    info = seqio.ShardInfo(index=shard, num_shards=num_shards)
    at_source = (
        source.supports_arbitrary_sharding or len(source.list_shards(plan.split)) >= num_shards
    )
    if num_shards == 1:
        dataset = source.get_dataset(split=plan.split, shuffle=False)
    elif at_source:
        dataset = source.get_dataset(split=plan.split, shuffle=False, shard_info=info)
    else:
        dataset = source.get_dataset(split=plan.split, shuffle=False).shard(num_shards, shard)
    with seqio.map_seed_manager(int(plan.fingerprint[:6], 16) + shard):
        for step in plan.pipeline.offline:
            bound = seqio.add_kwargs_to_transform(
                step, sequence_length=None, output_features=plan.task.output_features
            )
            dataset = bound(dataset)
    _check_features(plan, dataset)
    found: Any = dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
    try:
        yield from found
    except tf.errors.OpError as error:
        # TensorFlow's threads may still be in the preprocessor's Python. An iterator that its
        # traceback keeps until the process ends waits for them for ever.
        found = None
        traceback.clear_frames(error.__traceback__)
        if isinstance(source, PythonSource) and source.failure is not None:
            raise source.failure from error
        if _PYTHON_FAILED in error.message:  # in a preprocessor: its author needs the traceback
            raise
        raise ValueError(
            f"Task {plan.task.name!r} cannot be read (split {plan.split!r}). TensorFlow says: "
            f"{_plain(error.message)}. Check the task's files and preprocessors; --debug shows "
            "where it stopped."
        ) from error


def _plain(message: str) -> str:
    """What an error of TensorFlow says, without the names of its graph's nodes.

    >>> _plain("{{function_node wrapped}} /x.tsv; No such file [[{{node CSV}}]] [Op:Next] name: ")
    '/x.tsv; No such file'
    """
    return " ".join(_GRAPH_NODES.sub(" ", message).split()).rstrip(".")


def _check_features(plan: Plan, dataset: tf.data.Dataset) -> None:
    spec: Any = dataset.element_spec
    for name in plan.features:
        if name not in spec:
            _check_optional(plan, name, spec)
        elif not spec[name].dtype.is_integer or spec[name].shape.rank != 1:
            raise _no_ids(plan, name, str(spec[name]))


def _no_ids(plan: Plan, name: str, found: str) -> ValueError:
    return ValueError(
        f"Feature {name!r} of task {plan.task.name!r} is {found} after its offline preprocessors; "
        "token ids (1-D integers) are needed: is `seqio.preprocessors.tokenize` missing?"
    )


def _check_optional(plan: Plan, name: str, there: Collection[str]) -> None:
    """Refuses that a feature is absent, but where it is not required."""
    if plan.pipeline.online is not None or plan.task.output_features[name].required:
        raise ValueError(
            f"Task {plan.task.name!r} has no feature {name!r} after its offline preprocessors, "
            f"only {sorted(there)}."
        )
