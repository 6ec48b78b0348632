"""The facts about a vocabulary that denoisers need; no tokenizer attached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class VocabInfo:
    """Reserved ids of a vocabulary.

    Attributes:
      vocab_size: tokenizer pieces + sentinels (not the padded rows of an embedding, not mode ids).
        Sentinel ``k`` is id ``vocab_size - 1 - k``, as in T5.
      eos_id, pad_id: end of sequence and padding.
      num_sentinels: how many sentinels there are.
      mode_ids: ids that stand for a mode (``"R"``, ``"S"``, ``"X"``) at the start of the inputs.
    """

    vocab_size: int
    eos_id: int = 1
    pad_id: int = 0
    num_sentinels: int
    mode_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
