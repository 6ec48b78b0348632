"""Token ids of texts that are not prepared themselves (queries, answer choices), as `prepare` would
make them; and the texts of prepared ids.

Axis legend: S prompt length.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ul2tune.data import manifest
from ul2tune.data.codec import Example
from ul2tune.data.vocab import Vocabulary
from ul2tune.feed.sources import eos_of
from ul2tune.metrics.reply_frame import ReplyFrame


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Texts as the model is given them: cut, and ended as the prepared ones are.

    Attributes:
      vocabulary: of the prepared data.
      inputs_length: longer prompts are cut.
      inputs_end: what ends prompts: the end of sequence, or nothing.
      keeps_end: whether a prompt that is cut keeps that end.
      targets_end: what ends targets, likewise.
    """

    vocabulary: Vocabulary
    inputs_length: int
    inputs_end: list[int]
    keeps_end: bool
    targets_end: list[int]

    @staticmethod
    def like(
        row: Example, entry: manifest.TaskManifest, vocabulary: Vocabulary, inputs_length: int
    ) -> Tokenizer:
        """That of the task whose prepared example `row` is; `entry` is its manifest."""
        eos = [vocabulary.info.eos_id]

        def ending(feature: str) -> list[int]:
            # Prepared ids end with EOS (the task appended it), or the feed is asked to append it.
            ended = row.arrays[feature].tolist()[-1:] == eos
            return eos if ended or entry.features[feature].get("add_eos") else []

        return Tokenizer(
            vocabulary=vocabulary,
            inputs_length=inputs_length,
            inputs_end=ending("inputs"),
            keeps_end=eos_of(entry.features["inputs"]) == "after_trim",
            targets_end=ending("targets"),
        )

    def prompt(self, body: Sequence[int]) -> tuple[np.ndarray, bool]:
        """The prompt, and whether it was cut."""
        room = self.inputs_length - len(self.inputs_end) * self.keeps_end
        kept = list(body[:room])
        ids = (kept + self.inputs_end)[: self.inputs_length]
        return np.array(ids, np.int32), len(kept) < len(body)

    def prompts(self, texts: Sequence[str]) -> tuple[tuple[np.ndarray, ...], bool]:
        """Prompts, and whether any was cut."""
        found = [self.prompt(self.vocabulary.encode(text)) for text in texts]
        return tuple(ids for ids, _ in found), any(cut for _, cut in found)

    def targets(self, texts: Sequence[str]) -> tuple[np.ndarray, ...]:
        """Targets."""
        return tuple(
            np.array(self.vocabulary.encode(text) + self.targets_end, np.int32) for text in texts
        )

    def ended_target(self, ids_L: np.ndarray) -> np.ndarray:
        """A prepared target, ended as the others are."""
        body_L = ids_L[:-1] if ids_L[-1:].tolist() == [self.vocabulary.info.eos_id] else ids_L
        return np.array([*body_L, *self.targets_end], np.int32)


def words(ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """A prompt's text without its end of sequence. One inside of it, with which chat templates may
    end every message, is spelled."""
    eos_id = vocabulary.info.eos_id
    parts: list[list[int]] = [[]]
    for token in ids[:-1] if ids[-1:] == [eos_id] else ids:
        if token == eos_id:
            parts.append([])
        else:
            parts[-1].append(token)
    (eos,) = vocabulary.decode_pieces([eos_id])
    return eos.join(map(vocabulary.decode, parts))


def spelled_frame(context: str, vocabulary: Vocabulary) -> tuple[ReplyFrame, int | None]:
    """The reply frame in a metric context as the vocabulary spells it, which may lose characters,
    and the token that its end begins with, if that is special or was added as a text of its own.

    Added characters ("}" to T5's vocabulary) end nothing: answers hold them.
    """
    frame = ReplyFrame.from_context(context)
    if frame == ReplyFrame():
        return frame, None
    added = [text for text in vocabulary.added_texts if len(text) > 1]
    first = vocabulary.encode(frame.end.lstrip(), specials=True)[:1]
    stops = set(vocabulary.decode_pieces(first)) & {*vocabulary.special_texts, *added}
    stop_id = first[0] if stops else None
    # Beside a reply: T5's vocabulary drops the spaces around a text.
    start, end = (
        words(vocabulary.encode(text, specials=True), vocabulary)
        for text in (f"{frame.start}a", f"a{frame.end}")
    )
    spelled = ReplyFrame(start=start.removesuffix("a").lstrip(), end=end.removeprefix("a").rstrip())
    return spelled, stop_id


def stop_token(vocabulary: Vocabulary, text: str | None) -> int | None:
    """The id of a token that is to end answers.

    Args:
      vocabulary: the model's.
      text: of a special token or an added one, as `InferConfig.stop` names it; None = no token.

    Raises:
      ValueError: if the vocabulary has no such token: an answer could hold the text in many ways.
    """
    if text is None:
        return None
    known = (*vocabulary.special_texts, *vocabulary.added_texts)
    if text not in known:
        near = difflib.get_close_matches(text, known, n=3, cutoff=0)
        raise ValueError(
            f"InferConfig.stop = {text!r} is no special or added token of the vocabulary, which "
            f"alone can end an answer. " + (f"The nearest are {near}." if near else "It has none.")
        )
    (token,) = vocabulary.encode(text, specials=True)
    return token


def until(ids: Sequence[int], stop_id: int | None) -> Sequence[int]:
    """What stands before the first stop token; everything where there is none."""
    return ids[: ids.index(stop_id)] if stop_id in ids else ids
