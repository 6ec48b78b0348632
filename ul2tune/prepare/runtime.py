"""TensorFlow as this package uses it: for reading and tokenizing, on the CPU, and quiet.

Preparing must never take an accelerator's memory: JAX owns it.
"""

from __future__ import annotations

from ul2tune.prepare.silence import silent

# TensorFlow logs which accelerators it lacks while it is being loaded, before its own settings for
# logging take effect.
with silent(2):
    import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

__all__ = ["tf"]
