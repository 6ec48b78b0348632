"""One layer of a decoder-only model, and what its layers know of the row they run over.

Axes: B batch, L length, S slots of the cache, D model, A head size, N layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ul2tune.models import layers
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.grouped_attention import GroupedQueryAttention
from ul2tune.models.layers import drop_channels, split_key
from ul2tune.models.norms import Norm
from ul2tune.models.rotary import Rotation
from ul2tune.models.visibility import Visibility
from ul2tune.sharding import constrain

# What a layer adds to the residual stream, as a function of the normed stream: [B, L, D] twice.
Branch = Callable[[jax.Array], jax.Array]


class DropoutKeys(NamedTuple):
    """Keys of one layer, by what is dropped; None drops nothing.

    Attributes:
      attention: the output of self-attention.
      cross_attention: the output of cross-attention.
      hidden: the hidden activations of the feed-forward block.
      mlp: the output of the feed-forward block.
      weights: the weights of self-attention.
      source_weights: the attention weights on the encoder's output.
    """

    attention: jax.Array | None = None
    cross_attention: jax.Array | None = None
    hidden: jax.Array | None = None
    mlp: jax.Array | None = None
    weights: jax.Array | None = None
    source_weights: jax.Array | None = None


class Block(nnx.Module):
    """One layer: attention and feed-forward, each with its norm before, after, or on both sides of
    the branch."""

    def __init__(self, config: DecoderConfig, key: jax.Array):
        self.config, d = config, config.d_model
        keys = jax.random.split(key)

        def norm() -> Norm:
            return Norm(config.norm, config.norm_eps, key, embed=d)

        self.attention_norm = norm()
        self.attention = GroupedQueryAttention(config.attention_config, keys[0])
        self.mlp_norm = norm()
        self.mlp = layers.MLP(d, config.d_ff, config.activation, keys[1], bias=config.mlp_bias)
        if config.norm_order == "sandwich":
            self.attention_post_norm = norm()
            self.mlp_post_norm = norm()

    def add(self, x_BLD: jax.Array, name: str, branch: Branch, key: jax.Array | None) -> jax.Array:
        """Adds a branch to the stream, with the norms called `name` where this family has them.

        pre         x + branch(norm(x))
        post        norm(x + branch(x))
        sandwich    x + post_norm(branch(norm(x)))
        """
        norm: Norm = getattr(self, f"{name}_norm")
        order = self.config.norm_order
        y_BLD = branch(x_BLD if order == "post" else norm(x_BLD))
        if order == "sandwich":
            y_BLD = getattr(self, f"{name}_post_norm")(y_BLD)
        x_BLD = x_BLD + drop_channels(y_BLD, (self.config.dropout_rate, key))
        if order == "post":
            x_BLD = norm(x_BLD)
        return constrain(x_BLD, "batch", "length", None)

    def dropout_keys(self, key: jax.Array | None) -> DropoutKeys:
        """The keys of a decoder-only model's layer; hidden activations are dropped in T5 only."""
        if self.config.relative_buckets is not None:
            attention, mlp, weights, hidden = split_key(key, 4)
        else:
            attention, mlp, weights = split_key(key, 3)
            hidden = None
        return DropoutKeys(attention=attention, mlp=mlp, weights=weights, hidden=hidden)

    def __call__(
        self,
        x_BLD: jax.Array,
        attend: Branch,
        keys: DropoutKeys | None = None,
        cross: Branch | None = None,
    ) -> jax.Array:
        """Returns the residual stream after this layer, [B, L, D].

        Args:
          x_BLD: the residual stream before it.
          attend: the branch of self-attention.
          keys: turn dropout on. Those of attention weights are for `attend` and `cross` to use.
          cross: the branch of cross-attention, in layers that have its norms
            (`t5gemma_block.CrossBlock`).
        """
        keys = DropoutKeys() if keys is None else keys
        x_BLD = self.add(x_BLD, "attention", attend, keys.attention)
        if cross is not None:
            x_BLD = self.add(x_BLD, "cross_attention", cross, keys.cross_attention)
        hidden_dropout = self.config.dropout_rate, keys.hidden
        return self.add(x_BLD, "mlp", lambda y_BLD: self.mlp(y_BLD, hidden_dropout), keys.mlp)


class LayerKinds:
    """What local and global layers do with the positions they run over: rotation and window.

    Layers are looped over in one compiled body, so whether a layer is local is an array there: an
    element of `is_local_N`.

    Args:
      config: of the model.
      positions_BL: in their documents; B may be 1.
      length: number of different positions; a window of as many hides nothing.
      right_window: how far local layers see to the right; None = as far as to the left.
    """

    def __init__(
        self,
        config: DecoderConfig,
        positions_BL: jax.Array,
        length: int,
        right_window: int | None = None,
    ):
        self.is_local_N = jnp.array(config.is_local)
        self._window, self._right_window = config.sliding_window, right_window
        if self._window is not None and min(self._window, right_window or self._window) >= length:
            self._window = None  # hides nothing
        self.rotations: tuple[Rotation, ...] = tuple(
            rope.at(positions_BL, config.head_dim)
            for rope in (config.rope, config.local_rope)
            if rope is not None
        )

    def rotation(self, is_local: jax.Array) -> Rotation | None:
        """The rotation of a layer; None where positions are not rotary."""
        if len(self.rotations) < 2:
            return self.rotations[0] if self.rotations else None
        return jax.tree.map(lambda far, near: jnp.where(is_local, near, far), *self.rotations)

    def window(self, is_local: jax.Array) -> jax.Array | None:
        """How many tokens a layer sees to the left, the token itself included: a scalar, very large
        in global layers; None where no layer has a window."""
        return None if self._window is None else _if_local(is_local, self._window)

    def within(self, seen: Visibility, is_local: jax.Array) -> Visibility:
        """`seen`, restricted to the window of a layer."""
        window, right = self.window(is_local), self._right_window
        if window is None:
            return seen
        right_window = None if right is None else _if_local(is_local, right)
        return dataclasses.replace(seen, window=window, right_window=right_window)


def _if_local(is_local: jax.Array, window: int) -> jax.Array:
    return jnp.where(is_local, window, jnp.iinfo(jnp.int32).max)
