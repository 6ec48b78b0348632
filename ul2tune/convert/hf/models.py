"""Reads Hugging Face models one tensor at a time: what all families share (`export` writes them).

source = open_model("google-flan-t5-base/")       # checks everything but the numbers
source.config                                     # ours
for path, shape, layers in source.arrays(): …     # our arrays, layer by layer, float32
params = load_params(folder, abstract)            # or straight onto a mesh
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ul2tune import tree
from ul2tune.convert.hf import folder as hf_folder
from ul2tune.convert.hf.decoder import DecoderFamily
from ul2tune.convert.hf.folder import HFFolder
from ul2tune.convert.hf.t5 import T5Family
from ul2tune.convert.hf.t5gemma import T5GemmaFamily
from ul2tune.convert.mapping import Family, Leaf, matches
from ul2tune.models import base
from ul2tune.types import Tree

FAMILIES: tuple[Family, ...] = (T5Family(), DecoderFamily(), T5GemmaFamily())
# What float32 holds exactly.
STORED = ("F32", "BF16", "F16")
# Stacks up to this size are put together on the host: nothing to compile.
SMALL_BYTES = 2**24
# Presence means that the numbers in the files are not the weights.
_QUANTISED = ("quantization_config", "compression_config")


def family_of_type(model_type: Any) -> Family:
    """The family of a config.json's `model_type`.

    Raises:
      ValueError: if there is none.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = sorted(name for family in FAMILIES for name in family.model_types)
    raise ValueError(
        f"config.json has model_type = {str(model_type)[:80]!r}; supported are {', '.join(known)}."
    )


def family_of_config(config: Any) -> Family:
    """The family that `config`, one of our model configurations, belongs to."""
    for family in FAMILIES:
        if type(config) is family.config_type:
            return family
    raise ValueError(f"{type(config).__name__} has no counterpart in Transformers.")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checked model of Hugging Face's: names, shapes and dtypes are what `config` needs.

    Attributes:
      folder: where its tensors are.
      family: what reads its config.json.
      config: our configuration.
      leaves: the table of all its parameters.
    """

    folder: HFFolder
    family: Family
    config: base.ModelConfig
    leaves: tuple[Leaf, ...]

    @property
    def abstract(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Our parameters by path."""
        return tree.flatten(base.abstract_params(self.config))

    @property
    def dtypes(self) -> dict[str, str]:
        """The stored dtype ("BF16", …) of every tensor that is read."""
        return {n: self.folder.info(n).dtype for leaf in self.leaves for n in leaf.names}

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors that are read."""
        infos = (self.folder.info(n) for leaf in self.leaves for n in leaf.names)
        return sum(info.end - info.begin for info in infos)

    def layer(self, leaf: Leaf, index: int) -> np.ndarray:
        """One tensor in our layout and its stored dtype.

        Raises:
          ValueError: if it holds a NaN or an infinity, or differs from a copy of it in the files.
        """
        value = self.folder.read(name := leaf.names[index])
        check_finite(value, f"Tensor {name!r} of {self.folder.path}")
        for alias in leaf.aliases:
            if alias in self.folder.names and not self.folder.equal(name, alias):
                raise ValueError(
                    f"{self.folder.path} holds {name!r} and {alias!r} with different numbers; this "
                    f"model has one tensor for both."
                )
        return leaf.to_ours(value)

    def layers(self, leaf: Leaf) -> Iterator[np.ndarray]:
        """The layers of a stacked parameter in order, or the one array of any other."""
        return (self.layer(leaf, index) for index in range(len(leaf.names)))

    def arrays(self) -> Iterator[tuple[str, tuple[int, ...], Iterator[np.ndarray]]]:
        """Our parameters in the order of the table: path, shape, and :meth:`layers`."""
        shapes = self.abstract
        for leaf in self.leaves:
            yield leaf.path, shapes[leaf.path].shape, self.layers(leaf)


def open_model(path: str | Path, *, text_only: bool = False) -> Source:
    """Opens a folder in Transformers' format; checks all names, shapes and dtypes, reads no numbers
    (but those of a tied head).

    Args:
      path: the folder.
      text_only: leave out the part for images (T5Gemma 2), which is refused otherwise. An export
        lacks it too: Transformers then initialises it anew, and warns.

    Raises:
      ValueError: for anything missing, unused, of the wrong shape or dtype, hostile, or not
        representable.
    """
    folder = hf_folder.open_folder(path)
    family = family_of_type(folder.config.get("model_type"))
    for key in _QUANTISED:
        if folder.config.get(key) is not None:
            raise ValueError(f"{folder.path} is quantised ({key}); import the original weights.")
    try:
        hf = family.observe(folder.config, folder)
        config = family.config_from_hf(hf)
    except ValueError as error:
        raise ValueError(f"{folder.path}: {error}") from error
    _check_size(folder, config)
    source = Source(folder=folder, family=family, config=config, leaves=family.leaves(config, hf))
    _check_names(source, text_only)
    _check_tensors(source)
    return source


def _check_size(folder: HFFolder, config: base.ModelConfig) -> None:
    """Refuses sizes that NumPy and JAX cannot even speak of."""
    try:
        possible = tree.num_elements(base.abstract_params(config)) < 2**50
    except (OverflowError, ValueError, TypeError):
        possible = False
    if not possible:
        raise ValueError(f"{folder.path}: its config.json describes no model of possible size.")


def _check_names(source: Source, text_only: bool) -> None:
    folder, leaves = source.folder, source.leaves
    wanted = {name for leaf in leaves for name in leaf.names}
    if missing := sorted(wanted - set(folder.names)):
        raise ValueError(
            f"{folder.path} lacks tensor {missing[0]!r}, which its config.json calls for "
            f"({len(missing)} such tensors)."
        )
    known = wanted | {alias for leaf in leaves for alias in leaf.aliases}
    family = source.family
    parts = sorted(name for name in folder.names if matches(name, family.parts))
    if parts and not text_only:
        raise ValueError(
            f"{folder.path} holds tensor {parts[0][:200]!r} of a part that is not for text, which "
            f"our model does not have ({len(parts)} such tensors). To leave it behind, import with "
            f"text_only (ul2tune import hf --text_only)."
        )
    unused = sorted(
        name
        for name in set(folder.names) - known
        if not matches(name, family.ignored + family.parts)
    )
    if unused:
        raise ValueError(
            f"{folder.path} holds tensor {unused[0][:200]!r}, which the model of its config.json "
            f"does not have ({len(unused)} such tensors)."
        )


def _check_tensors(source: Source) -> None:
    ours = source.abstract
    paths = [leaf.path for leaf in source.leaves]
    assert sorted(paths) == sorted(ours), (set(paths) ^ set(ours), "the family's table")
    for leaf in source.leaves:
        expected = their_shape(leaf, ours[leaf.path].shape)
        for name in leaf.names:
            info = source.folder.info(name)
            where = f"Tensor {name!r} of {source.folder.path}"
            if info.shape != expected:
                raise ValueError(
                    f"{where} has shape {list(info.shape)}; its config.json calls for "
                    f"{list(expected)}."
                )
            if info.dtype not in STORED:
                raise ValueError(
                    f"{where} has dtype {info.dtype}; parameters are float32, which only holds "
                    f"{', '.join(STORED)} exactly."
                )


def their_shape(leaf: Leaf, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one of a leaf's tensors in the files, where ours is `shape`."""
    layer = tuple(shape[1:] if leaf.stacked else shape)
    return leaf.to_theirs(np.broadcast_to(np.zeros((), np.int8), layer)).shape


def check_finite(value: np.ndarray, where: str) -> None:
    """Raises ValueError for a NaN or an infinity; `where` begins the sentence."""
    flat = value.reshape(-1)
    for begin in range(0, flat.size, 2**22):  # a temporary array of a few megabytes at a time
        if not np.isfinite(flat[begin : begin + 2**22]).all():
            raise ValueError(f"{where} holds a NaN or an infinity: these are no trained weights.")


def load_params(path: str | Path | Source, abstract: Tree) -> Tree:
    """Reads a model of Hugging Face's onto a mesh, never more than one tensor on the host.

    Args:
      path: its folder, or an opened one.
      abstract: our parameters as `jax.ShapeDtypeStruct` with shardings.

    Raises:
      ValueError: as :func:`open_model`; or if `abstract` is another model.
    """
    source = path if isinstance(path, Source) else open_model(path)
    wanted = tree.flatten(abstract)
    ours, theirs = (
        {name: leaf.shape for name, leaf in flat.items()} for flat in (wanted, source.abstract)
    )
    if ours != theirs:
        raise ValueError(f"{source.folder.path} is another model: {source.config}.")
    params = {
        leaf.path: _place(leaf, source.layers(leaf), wanted[leaf.path]) for leaf in source.leaves
    }
    return tree.unflatten(params)


def _place(leaf: Leaf, layers: Iterator[np.ndarray], wanted: jax.ShapeDtypeStruct) -> jax.Array:
    """Builds one sharded array from its layers."""
    sharding = wanted.sharding
    if not leaf.stacked:
        return _put(next(layers), sharding)
    if tree.num_bytes(wanted) <= SMALL_BYTES:
        return _put(np.stack(list(layers)), sharding)
    one_layer = sharding
    if isinstance(sharding, NamedSharding):
        assert not sharding.spec or sharding.spec[0] is None, "layers are never split"
        one_layer = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    stack = jax.jit(lambda: jnp.zeros(wanted.shape, jnp.float32), out_shardings=sharding)()
    insert = jax.jit(
        lambda stack, layer, n: jax.lax.dynamic_update_index_in_dim(stack, layer, n, 0),
        donate_argnums=0,
        out_shardings=sharding,
    )
    for index, layer in enumerate(layers):
        stack = insert(stack, _put(layer, one_layer), jnp.int32(index))
    return stack


def _put(value: np.ndarray, sharding: Any) -> jax.Array:
    if sharding is None:
        return jnp.asarray(np.array(value, np.float32, order="C"))
    return jax.make_array_from_callback(
        value.shape, sharding, lambda index: np.array(value[index], np.float32, order="C")
    )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An `InitFn` for a run that starts from a folder in Transformers' format, without importing
    it first: ``INITIAL = @hf.Checkpoint()``.

    Attributes:
      path: the folder.
      text_only: as in :func:`open_model`.
    """

    path: str
    text_only: bool = False

    def __str__(self) -> str:
        """For the table at the start of a run."""
        return f"{self.path}, its text part" if self.text_only else self.path

    def check_source(self) -> None:
        """As `types.InitFn` says."""
        open_model(self.path, text_only=self.text_only)

    def __call__(self, abstract: Tree) -> Tree:
        return load_params(open_model(self.path, text_only=self.text_only), abstract)
