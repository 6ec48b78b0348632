"""SeqIO tasks to indexed shards. TensorFlow lives in this package, and only here."""

import os

# Before TensorFlow is imported by any module of the package. The second one only silences a notice
# about rounding in matrix products; nothing here multiplies matrices.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# Loads TensorFlow without its noise, before SeqIO loads it with.
from ul2tune.prepare import runtime

__all__ = ["runtime"]
