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
    """Texts before and after a reply, empty where there is nothing.

    White space between a text and the reply belongs to the text (" END"), outer space does not.
    """

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
        """The prediction without its frame, as far as the model wrote one, and outer spaces.

        A model may write less space than the template does. That is a frame too where its letters
        cannot be those of a word: "46.<|im_end|>" with the end " <|im_end|>", but not "WEEKEND"
        with " END". A frame of letters without space is taken off any word.
        """
        text = prediction.strip()
        start = self.start
        if not text.startswith(start) and not start.rstrip()[-1:].isalnum():
            start = start.rstrip()
        text = text.removeprefix(start).strip()
        end = self.end
        if not text.endswith(end) and not end.lstrip()[:1].isalnum():
            end = end.lstrip()
        return text.removesuffix(end).strip()
