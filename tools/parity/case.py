"""One random model of Transformers and what it answers: the files that both sides exchange.

    CASE/model/            as `save_pretrained` wrote it
    CASE/reference.safetensors     arrays by name, see below
    CASE/facts.json        family, case, kind, seed, versions
    CASE/exported/         what we made of it (`run.py` only)

Arrays: ``inputs/…`` token ids, ``logits``, ``loss``, ``grad/<tensor>`` of the loss, ``generated``
(greedy), and ``tap/<module>/in|out`` of sub-modules. Kinds and their inputs:

    seq2seq   inputs/encoder [B, S], inputs/targets [B, L], 0 behind the end; logits [B, L, V] from
              reading the start and the targets; loss: mean over targets that are not 0
    causal    inputs/tokens [B, L], 0 behind the end; logits [B, L, V]; loss: mean over the tokens
              behind the first that are not 0; inputs/prompt [B, P] without padding, `generated` is
              what follows it

Imports neither torch nor JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

MODEL, REFERENCE, FACTS, EXPORTED = "model", "reference.safetensors", "facts.json", "exported"
NEW_TOKENS = 10


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model to compare.

    Attributes:
      name: unique in its family.
      build: returns a fresh model of Transformers, in evaluation mode or not; its numbers are drawn
        anew by the frame.
      kind: "seq2seq" or "causal".
      adjust: called with every model of this case after it was built or loaded.
      taps: names of sub-modules (`get_submodule`) whose first input and output are recorded.
      dtype: of the saved weights, a torch name.
      max_shard_size: of the saved files.
      golden: whether it is kept in the tree.
      start_id: what the decoder of a "seq2seq" reads first (our features have 0 there).
      saved_as: the name in files of a parameter of the model.
      absent: pattern of tensors that our exports do not have.
    """

    name: str
    build: Callable[[], Any]
    kind: str = "seq2seq"
    adjust: Callable[[Any], None] = lambda model: None
    taps: tuple[str, ...] = ()
    dtype: str = "float32"
    max_shard_size: str = "5GB"
    golden: bool = True
    start_id: int = 0
    saved_as: Callable[[str], str] = lambda name: name
    absent: str | None = None


def make_inputs(kind: str, vocab_size: int, seed: int) -> dict[str, np.ndarray]:
    """Token ids of three rows of different lengths, drawn from ids 2…vocab_size - 1."""
    rng = np.random.default_rng(seed)

    def rows(length: int, lengths: tuple[int, ...]) -> np.ndarray:
        tokens = rng.integers(2, vocab_size, (len(lengths), length)).astype(np.int32)
        for row, own in enumerate(lengths):
            tokens[row, own:] = 0
        return tokens

    if kind == "seq2seq":
        return {"inputs/encoder": rows(9, (9, 4, 7)), "inputs/targets": rows(7, (3, 7, 5))}
    return {"inputs/tokens": rows(9, (9, 4, 7)), "inputs/prompt": rows(5, (5, 5, 5))}


def read_reference(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / REFERENCE)
