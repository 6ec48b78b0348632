"""Small T5s in T5X's layouts, of our own making."""

from __future__ import annotations

import jax
import numpy as np

from ul2tune import tree
from ul2tune.convert.t5x import names
from ul2tune.convert.t5x.moments import AdafactorMoments
from ul2tune.models import base
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.t5 import T5Config
from ul2tune.optim.adafactor import AdafactorConfig

JOINED = names.Layout(scanned=True)
SPLIT = names.Layout(split_heads=True)


def decoder_only(**changes) -> DecoderConfig:
    """As T5X's decoder-only example has it."""
    sizes = {
        "vocab_size": 24,
        "d_model": 8,
        "head_dim": 4,
        "d_ff": 12,
        "num_heads": 3,
        "num_kv_heads": 3,
        "num_layers": 2,
        "max_length": 2**15,
        "activation": "gelu_gated",
        "relative_buckets": 32,
        "relative_max_distance": 128,
        "query_scalar": 1.0,
        "tied_logits": True,
        "scale_logits": True,
        "dtype": "float32",
    }
    return DecoderConfig(**{**sizes, **changes})


def config(**changes) -> T5Config:
    sizes = {
        "vocab_size": 24,
        "d_model": 8,
        "d_kv": 4,
        "d_ff": 12,
        "num_heads": 3,
        "num_encoder_layers": 2,
        "num_decoder_layers": 3,
        "dtype": "float32",
    }
    return T5Config(**{**sizes, **changes})


T5_1_0 = config(activation="relu", tied_logits=True, scale_logits=True)
T5_1_1 = config()
UMT5 = config(per_layer_relative_bias=True)
DECODER_ONLY = decoder_only()
UNTIED = decoder_only(activation="relu", tied_logits=False, scale_logits=False)


def flat_params(model: T5Config | DecoderConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Different numbers everywhere, norms included."""
    shapes = tree.flatten(base.abstract_params(model))
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {
        path: np.asarray(jax.random.normal(key, shape.shape))
        for key, (path, shape) in zip(keys, shapes.items())
    }


def plans(model: T5Config | DecoderConfig, adafactor: AdafactorConfig):
    axes = tree.flatten(base.param_axes(model))
    shapes = tree.flatten(base.abstract_params(model))
    return {path: adafactor.factoring(path, shapes[path].shape, axes[path]) for path in axes}


def moments(
    model: T5Config | DecoderConfig, rules, step: int, *, momentum: bool = False
) -> AdafactorMoments:
    """A state of random moments in the shapes that our Adafactor has."""
    shapes = {path: leaf.shape for path, leaf in tree.flatten(base.abstract_params(model)).items()}
    draw = np.random.default_rng(step).random
    v_row, v_col, v = {}, {}, {}
    unused = np.zeros((1,), np.float32)
    for path, shape in shapes.items():
        rule = rules[path]

        def without(dropped, shape=shape):
            kept = [size for dim, size in enumerate(shape) if dim not in dropped]
            return draw(kept, np.float32)

        factored = rule.is_factored
        v_row[path] = without(rule.column_dims) if factored else unused
        v_col[path] = without(rule.row_dims) if factored else unused
        v[path] = unused if factored else without(())
    m = {path: draw(shape, np.float32) for path, shape in shapes.items()} if momentum else None
    return AdafactorMoments(step=step, v_row=v_row, v_col=v_col, v=v, momentum=m)
