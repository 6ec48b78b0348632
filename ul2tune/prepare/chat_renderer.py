"""How conversations become SeqIO examples: the renderer and the tokenizing step of chat tasks.

Between the two, texts hold quoted messages (`ul2tune.instructions.chat_specials`); no mark is left
in what is prepared.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import seqio

from ul2tune.data.vocab import Vocabulary
from ul2tune.instructions import chat
from ul2tune.instructions.chat import Message, Style
from ul2tune.instructions.chat_specials import (
    MARK,
    MARKS,
    UNMARKED,
    QuotedStyle,
    Quoting,
    unquote,
)
from ul2tune.instructions.records import Record, Rendered, Renderer
from ul2tune.instructions.tokenizer import Tokenizer
from ul2tune.metrics.reply_frame import ReplyFrame
from ul2tune.prepare import python_steps
from ul2tune.prepare.record_tasks import tk_instruct_renderer
from ul2tune.prepare.runtime import tf
from ul2tune.prepare.seqio_vocab import SeqioVocabulary

log = logging.getLogger(__name__)

_TALK = (
    Message("system", "a"),
    Message("user", "b"),
    Message("assistant", "c"),
    Message("user", "d"),
)
# What styles are tried with; some know one turn alone, or no system.
_SAMPLES = (_TALK, _TALK[1:], _TALK[:2], _TALK[1:2])


@dataclass(frozen=True, kw_only=True)
class ChatRenderer:
    """Makes the renderer of a chat task (`register_record_task`).

    Attributes:
      style: writes conversations.
      max_tokens: as for `chat.render`.
      vocabulary: the task's, read when the task is used.
    """

    style: Style
    max_tokens: int | None
    vocabulary: SeqioVocabulary

    def __call__(self, tokenizer: Tokenizer) -> Renderer:
        assert isinstance(tokenizer, Vocabulary), "a source renders with its vocabulary"
        if _write_sample(self.style) is None:
            log.warning(
                "The chat style rejects sample conversations of one turn and of two, so it is not "
                "known what it writes around a reply: `evaluate` will score answers including it."
            )
        quoting = Quoting(tokenizer)
        render = functools.partial(
            chat.render,
            style=QuotedStyle(self.style, quoting),
            tokenizer=quoting,
            max_tokens=self.max_tokens,
        )
        return functools.partial(_framed, render, self._frame().to_context())

    def identified_by(self) -> Any:
        """What fingerprints take for this renderer (`identity`).

        Special tokens and what is written around a reply change the data. A style that writes
        neither keeps the fingerprint that it had before they were told apart from text.
        """
        text_only = tk_instruct_renderer(chat.render, style=self.style, max_tokens=self.max_tokens)
        wrote = _write_sample(self.style)
        quoting = Quoting(self.vocabulary.vocabulary)
        frame = self._frame().to_context()
        if wrote and not quoting.has_specials("".join(wrote)) and not frame:
            return text_only
        return ["special tokens", frame, text_only]

    def _frame(self) -> ReplyFrame:
        _, target = _write_sample(self.style) or ("", "")
        start, found, end = target.partition(MARK)
        return ReplyFrame(start=start.lstrip(), end=end.rstrip()) if found else ReplyFrame()


def _write_sample(style: Style) -> tuple[str, str] | None:
    """The first sample conversation that the style does not reject, with a mark as its reply; None
    if it rejects all."""
    for history in _SAMPLES:
        try:
            return style.write(history, MARK)
        except ValueError:
            continue
    return None


def _framed(render: Renderer, context: str, record: Record, seed: int) -> Rendered | None:
    rendered = render(record, seed)
    return rendered and dataclasses.replace(rendered, metric_context=context)


# `wraps`: fingerprints take it for SeqIO's step. Where it gives other tokens, the renderer says so.
@functools.wraps(seqio.preprocessors.tokenize)
def tokenize(dataset: tf.data.Dataset, output_features: Mapping[str, Any]) -> tf.data.Dataset:
    """As SeqIO's `tokenize`, for texts with quoted messages."""
    features = _quoted(output_features)

    def without_marks(element: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        texts = {f"{name}_pretokenized" for name in features} & element.keys()
        clean = {name: tf.strings.regex_replace(element[name], MARKS, UNMARKED) for name in texts}
        return {**element, **clean}

    return seqio.preprocessors.tokenize(dataset, features).map(without_marks)


def _tokenize(output_features: Mapping[str, Any]) -> Callable:
    """As `tokenize`, one element in Python."""
    quoted = python_steps.tokenize(_quoted(output_features))
    names = {f"{name}_pretokenized" for name in output_features}

    def step(element: Mapping[str, Any]) -> dict[str, Any]:
        result = quoted(element)
        return {**result, **{name: unquote(result[name]) for name in names & result.keys()}}

    return step


python_steps.TWINS[tokenize] = _tokenize


def _quoted(features: Mapping[str, Any]) -> dict[str, Any]:
    """The features for texts with quoted messages."""
    return {
        name: dataclasses.replace(feature, vocabulary=_Quoted(feature.vocabulary))
        for name, feature in features.items()
    }


class _Quoted(SeqioVocabulary):
    """A vocabulary for texts with quoted messages."""

    def __init__(self, wrapped: SeqioVocabulary):
        super().__init__(lambda: wrapped.vocabulary)

    def _encode(self, s: str | bytes) -> list[int]:
        return self._quoting.encode(s.decode("utf-8") if isinstance(s, bytes) else s)

    @functools.cached_property
    def _quoting(self) -> Quoting:
        return Quoting(self.vocabulary)
