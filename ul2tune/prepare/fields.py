"""One SeqIO element -> one prepared example: token arrays, and the fields evaluation needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ul2tune.data.codec import Example

# SeqIO keeps the text that a feature was tokenized from as `<feature>_pretokenized`.
_TEXT_SUFFIX = "_pretokenized"


def to_example(
    element: Mapping[str, Any], features: Collection[str], *, keep_text: bool
) -> Example:
    """Converts an element as `tf.data` yields it in NumPy.

    Args:
      element: of the offline pipeline.
      features: the task's features; those that are there become `Example.arrays`.
      keep_text: whether ``<feature>_pretokenized`` stays, as ``<feature>_text`` (the targets' as a
        list of references). Pretraining text is not stored twice.

    Returns:
      the example; everything else becomes a field of its own name, bytes as text.

    Raises:
      ValueError: naming a field that JSON cannot hold.
    """
    arrays = {name: np.asarray(element[name]) for name in features if name in element}
    fields: dict[str, Any] = {}
    for name, value in element.items():
        if name in features:
            continue
        if name.endswith(_TEXT_SUFFIX):
            if not keep_text:
                continue
            name = name.removesuffix(_TEXT_SUFFIX) + "_text"
            if name in element:  # the task has a field of this name itself
                continue
            value = _stored(name, value)
            fields[name] = [value] if name == "targets_text" else value
        else:
            fields[name] = _stored(name, value)
    return Example(arrays=arrays, fields=fields)


def _stored(name: str, value: Any) -> Any:
    try:
        return plain(value)
    except TypeError as error:
        raise ValueError(
            f"field {name!r} holds {error}, which cannot be stored: have a preprocessor drop it, "
            f"or make numbers or text of it."
        ) from error


def plain(value: Any) -> Any:
    """NumPy, ragged tensors and bytes as JSON values.

    Raises:
      TypeError: naming a type that has none.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if hasattr(value, "to_list"):  # a ragged tensor
        return plain(value.to_list())
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(type(value).__name__)
    return value
