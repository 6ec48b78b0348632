"""Conversations: their files -> one record per reply -> prompt and reply.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}, …]}
    {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}, …]}

with an `id` (text or an integer) and (second form, ShareGPT's) a `system` text if there is one.
Every reply of the assistant becomes an example of its own: what was said before it is the prompt,
it alone is the target. So an encoder-decoder reads the history and writes the reply, and a
decoder-only model has its loss on replies; each reply is trained on once, at the cost of reading
its history again.
Prompts are written by a :class:`ChatFormat`, or by a model's own template (`chat_template`).
"""

from __future__ import annotations

import bisect
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ul2tune.instructions import reading, row_files
from ul2tune.instructions.records import Record, Rendered
from ul2tune.instructions.tokenizer import Tokenizer

BENCHMARK = "chat"
ROLES = ("system", "user", "assistant")
# ShareGPT's names and those of files like it.
_ROLE_OF = {
    **{role: role for role in ROLES},
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bot"), "assistant"),
}
Turns = Literal["all", "last"]


@dataclass(frozen=True)
class Message:
    """What was said; `role` is one of :data:`ROLES`."""

    role: str
    content: str


class Style(Protocol):
    """How a conversation is written out."""

    def write(self, history: Sequence[Message], reply: str) -> tuple[str, str]:
        """The prompt up to where the reply starts, and the reply as the model is to write it."""
        ...


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """Texts before and after each role's messages.

    Attributes:
      system, user, assistant: prefix and suffix of the role's messages in the prompt. The prompt
        ends with the assistant's prefix.
      reply_end: ends the target, before the end-of-sequence token that the task appends.
      strip: remove outer white space of messages.
    """

    system: tuple[str, str] = ("", "\n\n")
    user: tuple[str, str] = ("User: ", "\n")
    assistant: tuple[str, str] = ("Assistant: ", "\n")
    reply_end: str = ""
    strip: bool = True

    def write(self, history: Sequence[Message], reply: str) -> tuple[str, str]:
        """Prompt and target (`Style`)."""
        parts = []
        for message in history:
            prefix, suffix = getattr(self, message.role)
            parts.append(prefix + self._clean(message.content) + suffix)
        return "".join(parts) + self.assistant[0], self._clean(reply) + self.reply_end

    def _clean(self, text: str) -> str:
        return text.strip() if self.strip else text


# Survives T5's vocabulary, where markers such as <|user|> become unknown.
PLAIN = ChatFormat()


def load_format(path: str | Path) -> ChatFormat:
    """Reads a format: ``{"user": [prefix, suffix], "assistant": …, "system": …, "reply_end": …}``.

    What is absent is as in :data:`PLAIN`.

    Raises:
      ValueError: naming the file and the key that is unknown or malformed.
    """
    kinds = {**dict.fromkeys(ROLES, list), "reply_end": str, "strip": bool}
    values: dict[str, Any] = {}
    for key, value in reading.read_object(path).items():
        if key not in kinds:
            raise ValueError(f"{path}: unknown key {key!r}; keys are {sorted(kinds)}.")
        is_pair = key not in ROLES or (
            isinstance(value, list) and [type(text) for text in value] == [str, str]
        )
        if not isinstance(value, kinds[key]) or not is_pair:
            raise ValueError(f"{path}: {key!r} cannot be {value!r:.80}.")
        values[key] = tuple(value) if key in ROLES else value
    return ChatFormat(**values)


def load(path: str | Path, *, turns: Turns = "all") -> Iterator[Record]:
    """The records of a file of conversations (JSON lines, or one JSON list), in order.

    Args:
      path: the file; rows of both forms may be mixed.
      turns: "all" replies become records, or the "last" of each conversation.

    Raises:
      ValueError: naming file and line and what is wrong there.
    """
    return row_files.load(path, parser(turns))


def parser(turns: Turns) -> row_files.Parser:
    """What makes the records of a conversation: of "all" its replies, or of the "last" one.

    Raises:
      ValueError: for anything else.
    """
    if turns not in ("all", "last"):
        raise ValueError(f"turns is {turns!r}: use 'all' or 'last'.")
    return parse if turns == "all" else parse_last


def parse(row: Mapping[str, Any], where: str, identity: str) -> tuple[Record, ...]:
    """A record per reply (`row_files.Parser`).

    A reply that nobody asked for (no message of the user before it) is only history; so a
    conversation of which nothing is a record is an error. One in which nothing is said, as
    ShareGPT has them, has none.
    """
    messages = read_messages(row, where)
    if all(message.role == "system" for message in messages):
        return ()
    name = _id(row, where) or identity
    records = []
    for index, message in enumerate(messages):
        history = messages[:index]
        asked = [m.content for m in history if m.role == "user"]
        if message.role == "assistant" and asked:
            records.append(
                Record(
                    id=f"{name}-{index}",
                    task=BENCHMARK,
                    benchmark=BENCHMARK,
                    input=asked[-1],
                    targets=(message.content,),
                    structure=json.dumps([[m.role, m.content] for m in history]),
                    metric_names=("rouge_l",),
                )
            )
    if not records:
        raise ValueError(
            f"{where}: no message of the assistant follows one of the user. Take it "
            f"out of the file."
        )
    return tuple(records)


def _id(row: Mapping[str, Any], where: str) -> str:
    """A conversation's `id`; "" if it has none."""
    found = row.get("id", "")
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise ValueError(f"{where}: 'id' must be a string or an integer, got {found!r:.80}.")
    return str(found)


def parse_last(row: Mapping[str, Any], where: str, identity: str) -> tuple[Record, ...]:
    """The last reply's record (`row_files.Parser`)."""
    return parse(row, where, identity)[-1:]


def read_messages(row: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    """The messages of a row of either form.

    Raises:
      ValueError: on a role or content that is no text, with its place.
    """
    named = "messages" in row
    list_key = "messages" if named else "conversations"
    role_key, text_key = ("role", "content") if named else ("from", "value")
    messages = []
    if not named and row.get("system"):
        messages.append(Message("system", reading.string(row, "system", where)))
    if list_key not in row:
        raise ValueError(f"{where}: neither 'messages' nor 'conversations' is there.")
    for index, item in enumerate(reading.objects(row, list_key, where)):
        place = f"{where}: {list_key}[{index}]"
        role = reading.string(item, role_key, place)
        if role not in _ROLE_OF:
            raise ValueError(
                f"{place}: the role {role!r} is none of {sorted(_ROLE_OF)} (tools are not known)."
            )
        messages.append(Message(_ROLE_OF[role], reading.string(item, text_key, place)))
    return tuple(messages)


def history_of(record: Record) -> tuple[Message, ...]:
    """The messages before a record's reply."""
    return tuple(Message(role, content) for role, content in json.loads(record.structure))


def render(
    record: Record,
    seed: int = 0,
    *,
    style: Style = PLAIN,
    tokenizer: Tokenizer | None = None,
    max_tokens: int | None = None,
) -> Rendered:
    """The history as prompt, the reply as target.

    A prompt over the budget loses its oldest turns, never the system's message nor the user's last
    message: if that alone is too long, the feed cuts it and counts it (`truncated_examples`).

    Args:
      record: of this module's :func:`load`.
      seed: unused; nothing is drawn.
      style: writes the conversation.
      tokenizer: counts the prompt's tokens.
      max_tokens: budget of the prompt, end of sequence included; None = none.
    """
    del seed
    history, reply = history_of(record), record.targets[0]
    cuts = _Cuts(history)

    @functools.cache
    def written(cut: int) -> tuple[str, str]:
        return style.write(cuts.after(cut), reply)

    def fits(cut: int) -> bool:
        if tokenizer is None or max_tokens is None:
            return True
        return len(tokenizer.encode(written(cut)[0])) + 1 <= max_tokens

    cut = min(bisect.bisect_left(range(len(cuts)), True, key=fits), len(cuts) - 1)
    inputs, targets = written(cut)
    return Rendered(inputs=inputs, targets=targets, truncated=cut > 0)


class _Cuts:
    """Where a history may start: at its beginning, or at a later message of the user."""

    def __init__(self, history: tuple[Message, ...]):
        asked = [i for i, message in enumerate(history) if message.role == "user"]
        self.history, self.starts = history, (0, *asked[1:])

    def __len__(self) -> int:
        return len(self.starts)

    def after(self, cut: int) -> tuple[Message, ...]:
        start = self.starts[cut]
        before = (m for m in self.history[:start] if m.role == "system")
        return (*before, *self.history[start:])
