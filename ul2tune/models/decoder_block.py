"""One layer of a decoder-only model, and what its layers know of the row they run over.

Axes: B batch, L length, S slots of the cache, D model, A head size, N layers.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from ul2tune.models import layers
from ul2tune.models.grouped_attention import GroupedQueryAttention
from ul2tune.models.layers import drop_channels, split_key
from ul2tune.models.norms import Norm
from ul2tune.models.rotary import Rotation
from ul2tune.models.visibility import Visibility
from ul2tune.sharding import constrain

if TYPE_CHECKING:
    from ul2tune.models.decoder import DecoderConfig

NORM_ORDERS = ("pre", "post", "sandwich")


class Block(nnx.Module):
    """One layer: attention and feed-forward, each with its norm before, after, or on both sides of
    the branch."""

    def __init__(self, config: DecoderConfig, key: jax.Array):
        self.config, d = config, config.d_model
        keys = jax.random.split(key)

        def norm() -> Norm:
            return Norm(config.norm, config.norm_eps, key, embed=d)

        self.attention_norm = norm()
        self.attention = GroupedQueryAttention(config.heads, keys[0])
        self.mlp_norm = norm()
        self.mlp = layers.MLP(d, config.d_ff, config.activation, keys[1], bias=config.mlp_bias)
        if config.norm_order == "sandwich":
            self.attention_post_norm = norm()
            self.mlp_post_norm = norm()

    def add(self, x_BLD: jax.Array, name: str, branch: Any, key: jax.Array | None) -> jax.Array:
        """Adds ``branch(y)`` to the stream, with the norms of this family.

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

    def dropout_keys(self, key: jax.Array | None) -> list[Any]:
        """Keys for the outputs of attention and feed-forward, attention weights and, in T5 only,
        hidden activations."""
        if self.config.relative_buckets is not None:
            return split_key(key, 4)
        return [*split_key(key, 3), None]

    def __call__(self, x_BLD: jax.Array, attend: Any, keys: list[Any]) -> jax.Array:
        """Returns the residual stream after this layer, [B, L, D].

        Args:
          x_BLD: the residual stream before it.
          attend: the branch of attention: normed stream -> [B, L, D].
          keys: of :meth:`dropout_keys`.
        """
        x_BLD = self.add(x_BLD, "attention", attend, keys[0])
        hidden = self.config.dropout_rate, keys[3]
        return self.add(x_BLD, "mlp", lambda y_BLD: self.mlp(y_BLD, hidden), keys[1])


class Layout:
    """What all layers know of the positions they run over.

    Args:
      config: of the model.
      positions_BL: in their documents; B may be 1.
      length: the furthest two tokens can be apart, plus one.
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
        self.window, self.right_window = config.sliding_window, right_window
        if self.window is not None and min(self.window, right_window or self.window) >= length:
            self.window = None  # both reach everything
        self.rotations: tuple[Rotation, ...] = tuple(
            rope.at(positions_BL, config.head_dim)
            for rope in (config.rope, config.local_rope)
            if rope is not None
        )

    def rotation(self, is_local: jax.Array) -> Rotation | None:
        """The rotation of a layer; `is_local` is an element of `is_local_N`."""
        if len(self.rotations) < 2:
            return self.rotations[0] if self.rotations else None
        return jax.tree.map(lambda x, y: jnp.where(is_local, y, x), *self.rotations)

    def reach(self, is_local: jax.Array) -> jax.Array | None:
        """The window of a layer; None where no layer has one."""
        return None if self.window is None else _if_local(is_local, self.window)

    def within(self, seen: Visibility, is_local: jax.Array) -> Visibility:
        """`seen` through the window of a layer."""
        window, right = self.reach(is_local), self.right_window
        if window is None:
            return seen
        right_window = None if right is None else _if_local(is_local, right)
        return dataclasses.replace(seen, window=window, right_window=right_window)


def _if_local(is_local: jax.Array, window: int) -> jax.Array:
    return jnp.where(is_local, window, jnp.iinfo(jnp.int32).max)
