"""What a chat template writes around a reply: the model is trained to write it, and it is no part
of the answer that metrics judge.

    ReplyFrame(end="<|im_end|>").content("It is 46.<|im_end|>\\n")    # "It is 46."

It travels as a metric context (`ul2tune.metrics.references`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

_KEY = "reply_frame"


@dataclass(frozen=True, kw_only=True)
class ReplyFrame:
    """Texts before and after a reply, without outer white space; empty where there is nothing."""

    start: str = ""
    end: str = ""

    @staticmethod
    def from_context(context: str) -> ReplyFrame:
        """The frame in a metric context; an empty one if that has none."""
        found = json.loads(context).get(_KEY) if f'"{_KEY}"' in context else None
        return ReplyFrame(start=found[0], end=found[1]) if found else ReplyFrame()

    def to_context(self) -> str:
        """JSON text; empty for an empty frame."""
        return json.dumps({_KEY: [self.start, self.end]}) if self.start or self.end else ""

    def content(self, prediction: str) -> str:
        """The prediction without its frame, as far as the model wrote one, and outer spaces."""
        text = prediction.strip().removeprefix(self.start)
        return text.strip().removesuffix(self.end).strip()
