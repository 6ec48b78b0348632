"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), and how contexts were stretched.

The halves of a head are the two coordinates (GPT-NeoX's layout, that of Hugging Face's
checkpoints): component i is rotated with component i + A / 2 by ``position * frequency[i]``.

Axes: B batch, L length, H heads, A head size, E = A / 2 frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

SCALINGS = ("none", "linear", "llama3")


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Frequencies of the rotation.

    Attributes:
      theta: base of the geometric series ``theta ** (-2 i / A)``.
      scaling: "none"; "linear" divides all frequencies by `factor` (position interpolation, Chen et
        al. 2023, arXiv:2306.15595; Gemma 3's global layers); "llama3" divides only those that turn
        less than `low_freq_factor` times in `original_length`, none that turn more than
        `high_freq_factor` times, and interpolates in between (Llama 3.1).
      factor: how much longer the context became.
      low_freq_factor, high_freq_factor: bounds of "llama3", in turns per `original_length`.
      original_length: context of the pretraining, for "llama3".

    Raises:
      ValueError: on unknown scalings, values out of range, or values that the scaling ignores.
    """

    theta: float = 10000.0
    scaling: Annotated[str, SCALINGS] = "none"
    factor: float = 1.0
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_length: int | None = None

    def __post_init__(self):
        if self.scaling not in SCALINGS:
            raise ValueError(f"Rope.scaling = {self.scaling!r} is not one of {SCALINGS}.")
        if not (0 < self.theta < math.inf and 0 < self.factor < math.inf):
            raise ValueError(
                f"Rope.theta = {self.theta} and Rope.factor = {self.factor} must be positive "
                f"numbers."
            )
        if self.scaling == "none" and self.factor != 1.0:
            raise ValueError(
                f"Rope.factor = {self.factor} does nothing with scaling = 'none'; choose a scaling."
            )
        names = ("low_freq_factor", "high_freq_factor", "original_length")
        for name in names:
            if (getattr(self, name) is not None) != (self.scaling == "llama3"):
                raise ValueError(
                    f"Rope.{name} = {getattr(self, name)} with scaling = {self.scaling!r}: "
                    f"{', '.join(names)} belong to 'llama3', which needs them all."
                )
        low, high = self.low_freq_factor or 0.0, self.high_freq_factor or 0.0
        if self.original_length is not None and self.original_length < 1:
            raise ValueError(f"Rope.original_length = {self.original_length} must be at least 1.")
        if self.scaling == "llama3" and not 0 < low < high < math.inf:
            raise ValueError(
                f"Rope.low_freq_factor = {low} must be positive and less than high_freq_factor = "
                f"{high}."
            )

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Returns float32 radians per position [A / 2], the fastest first."""
        # NUMERICS: float32 arithmetic in the order of the reference implementations; the angles of
        # late positions depend on the last bits.
        exponents_E = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        plain_E = (1.0 / np.power(np.float32(self.theta), exponents_E)).astype(np.float32)
        if self.scaling == "none":
            return plain_E
        slow_E = plain_E / np.float32(self.factor)
        if self.scaling == "linear":
            return slow_E
        low, high, length = self.low_freq_factor, self.high_freq_factor, self.original_length
        assert low is not None, self
        assert high is not None, self
        assert length is not None, self
        turns_E = length / (2 * math.pi / plain_E)
        share_E = np.clip((turns_E - low) / (high - low), 0.0, 1.0)
        return (1 - share_E) * slow_E + share_E * plain_E

    def at(self, positions_BL: jax.Array, head_dim: int) -> Rotation:
        """The rotation of every position; B may be 1."""
        frequencies_11E = self.frequencies(head_dim)[None, None]
        angles_BLE = positions_BL[..., None].astype(jnp.float32) * frequencies_11E
        return Rotation(cos_BLE=jnp.cos(angles_BLE), sin_BLE=jnp.sin(angles_BLE))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Rotation:
    """Float32 cosines and sines, [B, L, A / 2]; B is 1 where all rows have the same positions."""

    cos_BLE: jax.Array
    sin_BLE: jax.Array

    def __call__(self, x_BLHA: jax.Array) -> jax.Array:
        """Rotates every head.

        NUMERICS: in float32, then rounded once to the dtype of `x_BLHA`. DIVERGES: Transformers
        rounds cosines and sines first; the same in float32.
        """
        first, second = jnp.split(x_BLHA.astype(jnp.float32), 2, axis=-1)
        cos_BLHE, sin_BLHE = self.cos_BLE[:, :, None], self.sin_BLE[:, :, None]
        rotated = (first * cos_BLHE - second * sin_BLHE, second * cos_BLHE + first * sin_BLHE)
        return jnp.concatenate(rotated, axis=-1).astype(x_BLHA.dtype)
