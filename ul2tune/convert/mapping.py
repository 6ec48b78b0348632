"""One of our parameters and its tensors elsewhere: the table every converter is written in.

A family (T5, decoders, T5Gemma, …) is one object that says which configuration a ``config.json``
means, and a table of leaves: which of our parameters are which external tensors. Reading, checking,
streaming and writing are the same for all families and know nothing of any model; models know
nothing of conversion.

Layouts. Ours: kernels are [in …, out …] with heads split, stacked layers on a leading axis.
PyTorch's: ``Linear.weight`` is [out, in] with everything flat, one tensor per layer. Conversions
only move numbers: a sum has no exact inverse, so norms that apply ``1 + w`` hold ``w`` here too.

    Leaf(path="encoder/layers/mlp/wo", stacked=True,
         names=numbered("encoder.block.{}.layer.1.DenseReluDense.wo.weight", 12),
         **linear((2048,), (768,)))
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import numpy as np

from ul2tune.models.base import ModelConfig

Convert = Callable[[np.ndarray], np.ndarray]


class Conversions(TypedDict):
    """The two functions of a :class:`Leaf`."""

    to_ours: Convert
    to_theirs: Convert


def keep(x: np.ndarray) -> np.ndarray:
    """The conversion of what lies the same on both sides: embeddings, norms."""
    return x


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One of our parameters and the external tensors it is made of.

    Attributes:
      path: ours, as `ul2tune.tree.flatten` names it: ``encoder/layers/mlp/wo``.
      names: external names, one per layer of a stacked leaf, else one.
      stacked: whether our parameter has a leading layer axis, even if it holds one layer.
      to_ours: one external tensor -> one layer of ours. It may return a view.
      to_theirs: the exact inverse.
      aliases: further external names that may hold bit-equal copies of the (one) tensor, as tied
        embeddings do in older files. Checked when read, never written.
    """

    path: str
    names: tuple[str, ...]
    stacked: bool = False
    to_ours: Convert = keep
    to_theirs: Convert = keep
    aliases: tuple[str, ...] = ()

    def __post_init__(self):
        assert len(set(self.names)) == len(self.names) >= 1, self
        assert self.stacked or len(self.names) == 1, self
        assert not (self.stacked and self.aliases), self


class Arrays(Protocol):
    """The arrays of a checkpoint, to look at without loading it."""

    @property
    def names(self) -> Collection[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str) -> np.ndarray:
        """One of them in its stored dtype."""
        ...


class Tensors(Arrays, Protocol):
    """The tensors of a Hugging Face model."""

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors are the same bit for bit; holds neither in memory."""
        ...


class Family(Protocol):
    """One kind of model; subclass it to inherit what most families do not need.

    Attributes:
      model_types: values of ``model_type`` in config.json that are this family's.
      config_type: the class of our configuration.
      ignored: patterns (`re.fullmatch`) of tensors that files may hold and no model reads, such as
        buffers that are computed.
      parts: patterns of tensors of parts that our models do not have, such as one for images: they
        are left out where the user asks for the text part only, and refused otherwise.
    """

    model_types: tuple[str, ...]
    config_type: type
    ignored: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def observe(self, hf: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Any]:
        """Returns `hf` completed by what only the tensors tell (T5: whether it has a head)."""
        del tensors
        return hf

    def config_from_hf(self, hf: Mapping[str, Any]) -> ModelConfig:
        """Returns the configuration that a parsed (and observed) config.json describes.

        Raises:
          ValueError: naming field and value, for what this family cannot represent.
        """
        ...

    def config_to_hf(self, config: Any, like: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a config.json that Transformers loads as the same model.

        Args:
          config: ours.
          like: the config.json it was imported with, {} if there is none: its `model_type` is kept
            where it can say the same, its fields that mean nothing to us always are.

        Raises:
          ValueError: naming what Transformers cannot represent.
        """
        ...

    def leaves(self, config: Any, hf: Mapping[str, Any]) -> tuple[Leaf, ...]:
        """Returns the table: every parameter of `config` exactly once.

        `hf` is the config.json that the names belong to: the imported or the exported one.
        """
        ...


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a whole name matches one of some regular expressions."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def numbered(pattern: str, count: int) -> tuple[str, ...]:
    """``("h.0.w", "h.1.w", …)`` from ``"h.{}.w"``."""
    return tuple(pattern.format(n) for n in range(count))


def linear(inputs: Sequence[int], outputs: Sequence[int]) -> Conversions:
    """Conversions between ``Linear.weight`` [prod(outputs), prod(inputs)] and [*inputs, *outputs].

    >>> query = linear((512,), (8, 64))     # D -> H A
    >>> query["to_ours"](np.zeros((512, 512))).shape
    (512, 8, 64)
    """
    flat, full = (math.prod(inputs), math.prod(outputs)), (*inputs, *outputs)
    return {
        "to_ours": lambda x: x.T.reshape(full),
        "to_theirs": lambda x: x.reshape(flat).T,
    }


def reshaped(theirs: Sequence[int], ours: Sequence[int]) -> Conversions:
    """Conversions that only regroup axes, such as a bias [H * A] and [H, A]."""
    theirs, ours = tuple(theirs), tuple(ours)
    return {"to_ours": lambda x: x.reshape(ours), "to_theirs": lambda x: x.reshape(theirs)}


def transposed() -> Conversions:
    """Conversions of matrices that lie the other way round."""
    return {"to_ours": lambda x: x.T, "to_theirs": lambda x: x.T}
