"""What stands around a reply is taken off once, and nothing else is."""

from __future__ import annotations

import pytest

from ul2tune.metrics.reply_frame import ReplyFrame

CHATML = ReplyFrame(end="<|im_end|>")
THINKING = ReplyFrame(start="<think>\n\n</think>\n\n", end="<|im_end|>")


@pytest.mark.parametrize(
    ("frame", "prediction", "content"),
    [
        (CHATML, "It is 46.<|im_end|>\n", "It is 46."),
        (CHATML, "It is 46.", "It is 46."),
        (CHATML, "<|im_end|> in a sentence ", "<|im_end|> in a sentence"),
        (CHATML, "a<|im_end|><|im_end|>", "a<|im_end|>"),
        (CHATML, "<|im_end|>", ""),
        (THINKING, "<think>\n\n</think>\n\nIt is 46. <|im_end|>", "It is 46."),
        (THINKING, "It is 46.<|im_end|>", "It is 46."),
        (ReplyFrame(end="."), "It is 46..", "It is 46."),
        (ReplyFrame(end=" END"), "the WEEKEND", "the WEEKEND"),
        (ReplyFrame(end=" END"), "the WEEKEND END", "the WEEKEND"),
        (ReplyFrame(end="\n<|im_end|>"), "It is 46.<|im_end|>", "It is 46."),
        (ReplyFrame(start="A "), "A Apple", "Apple"),
        (ReplyFrame(start="A "), "Apple", "Apple"),
        (ReplyFrame(start="A: "), "A:Apple", "Apple"),
        (ReplyFrame(start="A: "), "A:", ""),
        (ReplyFrame(), " It is 46.<|im_end|>\n", "It is 46.<|im_end|>"),
    ],
)
def test_content(frame, prediction, content):
    assert frame.content(prediction) == content


def test_travels_as_a_metric_context():
    assert ReplyFrame.from_context(THINKING.to_context()) == THINKING
    assert ReplyFrame().to_context() == ""
    for other in ("", '{"schema": {"a": 1}}', '{"text": "\\"reply_frame\\""}'):
        assert ReplyFrame.from_context(other) == ReplyFrame()
