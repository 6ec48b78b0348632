"""UnifiedSKG's one prompt for every task: request, structured knowledge, context.

Source: Xie et al. 2022 (arXiv:2201.05966) and `utils/dataset.py` of HKUNLP/UnifiedSKG.

    {request} ; structured knowledge: {structure}
    {last utterance} ; structured knowledge: {structure} ; context: {what was said before}
    structured knowledge: {structure}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Knowledge = Literal["concatenate", "separate"]

# Between the last utterance and what was said before.
TURNS = " || "
# What T5's vocabulary lacks and UnifiedSKG adds to it: "<" as SQL writes it.
ADDED_TOKENS = (" <", " <=")


@dataclass(frozen=True, kw_only=True)
class Structured:
    """An example before its parts are put together.

    Attributes:
      text: the request, or the dialogue from its last utterance back (see `TURNS`); may be empty.
      structure: linearised knowledge.
      target: what is to be answered.
      truncated: the knowledge was cut to its token budget.
      metric_context: as in `Rendered`.
    """

    text: str
    structure: str
    target: str
    truncated: bool = False
    metric_context: str = ""


def compose(
    text: str, structure: str, *, description: str = "", knowledge: Knowledge = "concatenate"
) -> str:
    """The prompt.

    Args:
      text: see :class:`Structured`.
      structure: linearised knowledge.
      description: of the task, to start with; empty = none.
      knowledge: "concatenate" has the structure in the prompt; "separate" leaves it out, for models
        that read it elsewhere (UnifiedSKG's knowledge prefix).

    Raises:
      ValueError: if `knowledge` is something else.
    """
    if knowledge not in ("concatenate", "separate"):
        raise ValueError(f"knowledge must be 'concatenate' or 'separate', got {knowledge!r}.")
    request, turns, context = text.partition(TURNS)
    parts = [request] if text else []
    if knowledge == "concatenate":
        parts.append(f"structured knowledge: {structure}")
    if turns:
        parts.append(f"context: {context}")
    if description:
        # The prompt may be empty where there is neither text nor knowledge in it.
        return f"{description} ; {' ; '.join(parts)}"
    return " ; ".join(parts)
