"""TensorFlow as this package uses it: for reading and tokenizing, on the CPU.

Preparing must never take an accelerator's memory: JAX owns it.
"""

from __future__ import annotations

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

__all__ = ["tf"]
