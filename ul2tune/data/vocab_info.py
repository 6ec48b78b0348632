"""The facts about a vocabulary that denoisers need; no tokenizer attached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np


@dataclass(frozen=True, kw_only=True)
class VocabInfo:
    """Reserved ids of a vocabulary.

    Attributes:
      vocab_size: tokenizer pieces + sentinels (not the padded rows of an embedding, not mode ids).
        Sentinel ``k`` is id ``vocab_size - 1 - k``, as in T5, unless `sentinel_ids` are given.
      eos_id: end of sequence.
      pad_id: what follows the end of a generated row. Batches are padded with 0 in every
        vocabulary; where `pad_id` is another id, 0 may be a piece of text (see `zero_is_text`).
      num_sentinels: how many sentinels there are.
      mode_ids: ids that stand for a mode (``"R"``, ``"S"``, ``"X"``) at the start of the inputs.
      sentinel_ids: the sentinels in order, where they are reserved tokens of the tokenizer.
    """

    vocab_size: int
    eos_id: int = 1
    pad_id: int = 0
    num_sentinels: int
    mode_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sentinel_ids: tuple[int, ...] | None = None

    def __post_init__(self):
        assert self.sentinel_ids is None or len(self.sentinel_ids) == self.num_sentinels

    @cached_property
    def sentinels(self) -> np.ndarray:
        """int64 [num_sentinels]: the id of sentinel k at k."""
        if self.sentinel_ids is not None:
            return np.array(self.sentinel_ids, np.int64)
        return self.vocab_size - 1 - np.arange(self.num_sentinels)

    @property
    def zero_is_text(self) -> bool:
        """Whether id 0 may be text: then segment ids, not zeros, tell where a batch is padding."""
        return self.pad_id != 0
