"""T5X's checkpoints in and out: parameters, Adafactor's state, step; both of its formats.

    source = t5x.open_model("gs://…/checkpoint_1100000")     # checks everything but the numbers
    source.config, source.layout, source.step, source.notes
    params = t5x.load_params(source)                         # nested dict of NumPy arrays
    moments = t5x.load_moments(source, plans)                # Adafactor's state, see `moments`

    t5x.export_checkpoint("runs/t5x", Export(config=…, step=…), tree.flatten(params).__getitem__)

`ul2tune import t5x` and `ul2tune export t5x` wrap these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ul2tune import tree
from ul2tune.convert.mapping import Arrays, Leaf
from ul2tune.convert.t5x import decoder_only, folders, gin_file, legacy, names, orbax_form
from ul2tune.convert.t5x import moments as t5x_moments
from ul2tune.convert.t5x.axes import LAYERS
from ul2tune.convert.t5x.moments import AdafactorMoments, Plan
from ul2tune.convert.t5x.names import LAYOUTS, Layout, Weight
from ul2tune.models import base
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.t5 import T5Config
from ul2tune.types import Tree

FORMATS = ("legacy", "orbax")
DTYPES = ("float32", "bfloat16")
STEP = "state/step"
_GIN = "model.gin"
_NORM = "decoder/final_norm"
_LAYER_BIAS, _BIAS = "/layers/relative_bias", "/relative_bias"
Read = Callable[[str], Any]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checked checkpoint of T5X's.

    Attributes:
      path: its folder.
      tensors: its arrays, read when asked for.
      config: our configuration of the model in it.
      layout: how it lays its parameters out.
      notes: what was assumed or filled in, for people.
    """

    path: str
    tensors: Arrays
    config: T5Config | DecoderConfig
    layout: Layout
    notes: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """Updates done.

        Raises:
          ValueError: if that is no possible number.
        """
        value = self.tensors.read(STEP)
        if value.size != 1 or value.dtype.kind not in "iu" or not 0 <= value.item() < 2**31:
            raise ValueError(f"{self.path} holds {STEP!r} = {str(value)[:80]}, which is no step.")
        return int(value.item())

    @property
    def weights(self) -> tuple[Weight, ...]:
        """The table of its parameters."""
        return weights(self.config, self.layout)

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The same as converters' leaves."""
        return tuple(weight.leaf() for weight in self.weights)

    @property
    def has_adafactor(self) -> bool:
        """Whether there is an Adafactor state to carry over; raises for another optimiser's."""
        return t5x_moments.has_adafactor(self.tensors)

    @property
    def num_bytes(self) -> int:
        """Bytes of all parameters as float32."""
        return 4 * tree.num_elements(base.abstract_params(self.config))

    def layer(self, leaf: Leaf, index: int) -> np.ndarray:
        """One array in our layout and its stored dtype.

        Raises:
          ValueError: if it holds a NaN or an infinity, its dtype is none of T5X's, or its files are
            damaged.
        """
        value = self.tensors.read(leaf.names[index])
        if value.dtype.name not in DTYPES:
            raise ValueError(
                f"{leaf.names[index]!r} of {self.path} has dtype {value.dtype.name}; T5X's "
                f"parameters are {' or '.join(DTYPES)}."
            )
        if not np.isfinite(value.astype(np.float32, copy=False)).all():
            raise ValueError(
                f"{leaf.names[index]!r} of {self.path} holds a NaN or an infinity: these are no "
                f"trained weights."
            )
        return leaf.to_ours(value)

    def layers(self, leaf: Leaf) -> Iterator[np.ndarray]:
        """The layers in order where T5X has an array for each, or the one array that is all."""
        return (self.layer(leaf, index) for index in range(len(leaf.names)))

    def arrays(self) -> Iterator[tuple[str, tuple[int, ...], Iterator[np.ndarray]]]:
        """Our parameters in the order of the table: path, shape, and :meth:`layers`."""
        shapes = tree.flatten(base.abstract_params(self.config))
        for leaf in self.leaves:
            yield leaf.path, shapes[leaf.path].shape, self.layers(leaf)
        if not self.layout.decoder_norm:
            shape = shapes[_NORM].shape
            yield _NORM, shape, iter([np.ones(shape, np.float32)])


def weights(config: T5Config | DecoderConfig, layout: Layout) -> tuple[Weight, ...]:
    """The table of a model's parameters."""
    if isinstance(config, DecoderConfig):
        return decoder_only.weights(config, layout)
    return names.weights(config, layout)


def open_tensors(path: str) -> tuple[str, Arrays]:
    """Opens a checkpoint in either format: its folder, and its arrays by T5X's names.

    Raises:
      ValueError: if it is none, damaged or hostile.
    """
    folder = legacy.find(path)
    if legacy.is_orbax(folder):
        return folder, orbax_form.open_checkpoint(folder)
    return folder, legacy.open_checkpoint(path)


def open_model(path: str, told: Mapping[str, Any] | None = None) -> Source:
    """Opens a checkpoint and works out which model it holds; reads no parameters.

    Args:
      path: checkpoint_<step>, its msgpack file, or a MODEL_DIR (its newest checkpoint); local or
        ``gs://``.
      told: fields of `T5Config`, or of `DecoderConfig` where there is no encoder, that are known
        better than what names, shapes and the gin file beside the checkpoint say, such as
        ``{"activation": "silu_gated"}`` for UL2-20B.

    Raises:
      ValueError: for anything missing, unused, of another shape, damaged, hostile, or not
        representable.
    """
    folder, tensors = open_tensors(path)
    try:
        fields = {**gin_file.read(folder), **(told or {})}
        config, layout = _config_from(tensors, fields)
        source = Source(path=folder, tensors=tensors, config=config, layout=layout)
        names.check(tensors, source.weights, _facts(config))
        known = (names.TARGET, t5x_moments.STATES, STEP)
        odd = sorted(name for name in tensors.names if not name.startswith(known))
        if odd or STEP not in tensors.names:
            what = f"holds {odd[0]!r}, which no T5 has" if odd else f"lacks {STEP!r}"
            raise ValueError(f"The checkpoint {what}.")
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    notes = []
    if "activation" not in fields:
        notes.append(f"activation {config.activation!r} is assumed: shapes do not show it")
    if not layout.decoder_norm:
        notes.append(
            "the decoder's final norm has no scale in the checkpoint (as in UL2-20B): taken as ones"
        )
    return dataclasses.replace(source, notes=tuple(notes))


def _config_from(
    tensors: Arrays, told: Mapping[str, Any]
) -> tuple[T5Config | DecoderConfig, Layout]:
    target = [name for name in tensors.names if name.startswith(names.TARGET)]
    shapes = {name.removeprefix(names.TARGET): tuple(tensors.shape(name)) for name in target}
    names.refuse_fused(shapes)
    single = decoder_only.is_decoder_only(shapes)
    cls = DecoderConfig if single else T5Config
    fields = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(told) - fields):
        raise ValueError(
            f"{cls.__name__} has no field {unknown[0]!r}; its fields: {sorted(fields)}."
        )
    return (decoder_only if single else names).config_from(shapes, told)


def _facts(config: T5Config | DecoderConfig) -> str:
    if isinstance(config, DecoderConfig):
        return decoder_only.facts(config)
    return names.facts(config)


def load_params(path: str | Source) -> Tree:
    """Reads all parameters, one at a time: NumPy arrays, float32, in our layout.

    Args:
      path: as in :func:`open_model`, or an opened source.

    Raises:
      ValueError: as :func:`open_model`; for damaged files or numbers.
    """
    source = path if isinstance(path, Source) else open_model(path)
    params: dict[str, Any] = {}
    for name, shape, pieces in source.arrays():
        layers = [np.asarray(piece, np.float32) for piece in pieces]
        params[name] = np.stack(layers).reshape(shape)
    return tree.unflatten(params)


def load_moments(source: Source, plans: Mapping[str, Plan]) -> AdafactorMoments:
    """Reads Adafactor's state in our layout.

    Args:
      source: the checkpoint.
      plans: how our optimiser factors each parameter: `AdafactorConfig.factoring(path, shape,
        axes)` by path.

    Raises:
      ValueError: for another optimiser's state, or one that our layout cannot hold exactly.
    """
    if not source.has_adafactor:
        raise ValueError(f"{source.path} holds no optimiser state.")
    moments = t5x_moments.read(source.tensors, source.weights, plans, source.step)
    if source.layout.decoder_norm:
        return moments
    unused, size = np.zeros(t5x_moments.UNUSED, np.float32), source.config.d_model
    whole = np.zeros(size, np.float32)  # no gradient was ever seen
    return dataclasses.replace(
        moments,
        v_row={**moments.v_row, _NORM: unused},
        v_col={**moments.v_col, _NORM: unused},
        v={**moments.v, _NORM: whole},
        momentum=None if moments.momentum is None else {**moments.momentum, _NORM: whole},
    )


@dataclass(frozen=True, kw_only=True)
class Export:
    """What to write.

    Attributes:
      config: the model.
      step: names the checkpoint.
      moments: Adafactor's state, or None.
      plans: how its optimiser factors, see :func:`load_moments`; needed with `moments`.
      layout: "plain" (T5 1.0, 1.1, mT5, ByT5, UL2, decoder-only) or "scanned" (scalable_t5, umT5).
      format: "legacy" or "orbax".
      dtype: of the parameters; the optimiser's state is float32 always.
    """

    config: T5Config | DecoderConfig
    step: int
    moments: AdafactorMoments | None = None
    plans: Mapping[str, Plan] | None = None
    layout: str = "plain"
    format: str = "legacy"
    dtype: str = "float32"

    def __post_init__(self):
        for name, choices in (("layout", LAYOUTS), ("format", FORMATS), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} is unknown; use one of {', '.join(choices)}."
                )
        if self.moments is not None and self.moments.step != self.step:
            raise ValueError(
                f"Adafactor counts {self.moments.step} updates at step {self.step}; T5X has one "
                f"number for both. Export without the optimiser's state (--no_optimizer_state)."
            )
        _check_representable(self.config, self.layout)
        if self.repeats_bias and self.moments is not None:
            raise ValueError(
                "T5X's scanned layout has a relative bias in every layer; this model's is shared, "
                "and its optimiser state cannot be repeated. Use the plain layout, or export "
                "without the optimiser's state (--no_optimizer_state)."
            )

    @property
    def repeats_bias(self) -> bool:
        """Whether the one table of biases is written once per layer, as that layout wants it."""
        if isinstance(self.config, DecoderConfig):
            return False
        return self.layout == "scanned" and not self.config.per_layer_relative_bias

    def leaves(self, read: Read) -> Iterator[tuple[str, np.ndarray]]:
        """T5X's names and arrays, one at a time, of our parameters by path."""
        config = self.config
        if self.repeats_bias:
            assert isinstance(config, T5Config)
            config = dataclasses.replace(config, per_layer_relative_bias=True)
        table = weights(config, LAYOUTS[self.layout])
        for weight in table:
            leaf = weight.leaf()
            if self.repeats_bias and weight.path.endswith(_LAYER_BIAS):
                shared = np.asarray(read(weight.path.replace(_LAYER_BIAS, _BIAS)))
                found = np.broadcast_to(shared, (weight.sizes[LAYERS], *shared.shape))
            else:
                found = read(weight.path)
            layers = found if leaf.stacked else [np.asarray(found, np.float32)]
            for name, layer in zip(leaf.names, layers, strict=True):
                value = leaf.to_theirs(np.asarray(layer, np.float32))
                yield name, np.ascontiguousarray(value)
        if self.moments is not None:
            assert self.plans is not None
            yield from t5x_moments.leaves(self.moments, table, self.plans)


def export_checkpoint(directory: str, export: Export, read: Read) -> str:
    """Writes ``directory/checkpoint_<step>`` as T5X would, and ``model.gin`` for T5X beside it.

    Args:
      directory: local or ``gs://``; created if needed.
      export: what to write.
      read: our parameter by path, such as ``tree.flatten(params).__getitem__``: a float32 array, or
        something that yields the layers of a stack one by one (`checkpoints.pieces`).

    Returns:
      The checkpoint's folder.

    Raises:
      ValueError: if it exists, or another ``model.gin`` does, or T5X has no such model.
    """
    gin = gin_file.text(export.config, scanned=export.layout == "scanned").encode()
    folder = folders.open_folder(directory)
    if folder.read(_GIN) not in (None, gin):
        raise ValueError(
            f"{folder.path}/{_GIN} exists and describes something else: export to a folder of its "
            f"own. Nothing was written."
        )
    leaves = legacy.cast(export.leaves(read), export.dtype)
    write = legacy.write if export.format == "legacy" else orbax_form.write
    written = write(directory, export.step, leaves)
    folder.write(_GIN, gin)
    return written


def _check_representable(config: T5Config | DecoderConfig, layout: str) -> None:
    """Raises ValueError, naming what T5X's examples do not have."""
    if isinstance(config, DecoderConfig):
        decoder_only.check_representable(config, layout)
        return
    expected = {
        "scale_logits": config.tied_logits,
        "relative_buckets": 32,
        "relative_max_distance": 128,
        "layer_norm_eps": 1e-6,
    }
    for field, value in expected.items():
        if getattr(config, field) != value:
            raise ValueError(
                f"T5X has no model with {field} = {getattr(config, field)!r} (tied_logits = "
                f"{config.tied_logits}): it is {value!r} there. It cannot be exported."
            )
    if layout == "plain" and config.per_layer_relative_bias:
        raise ValueError(
            "T5X's plain layout has one relative bias for all layers, this model has one in each "
            "(umT5): export it in the layout 'scanned'."
        )
