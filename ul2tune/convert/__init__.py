"""Checkpoints of other programs, in and out: what their tensors are called and how they lie."""
