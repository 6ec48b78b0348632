"""Chat templates of tokenizers (Jinja), run in the sandbox, as a style of `chat`.

    style = chat_template.load("Qwen2.5-0.5B/tokenizer_config.json")
    chat.render(record, style=style)

A template is somebody's program: it may compute with the messages and with nothing else, within
limits of time and memory (`sandbox`). `raise_exception`, `namespace`, `break`, `tojson` and
`{% generation %}` are there; macros, tools and documents are not, and the date is undefined, so
that a text does not depend on the day. What is absent is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune.instructions import reading
from ul2tune.instructions.chat import Message
from ul2tune.instructions.sandbox import CompiledTemplate, compile_template

_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A compiled template with the special tokens it may write.

    Attributes:
      template, source: the template and its text.
      tokens: ``{"bos_token": "<s>", "eos_token": "</s>"}``.
    """

    template: CompiledTemplate
    source: str
    tokens: Mapping[str, str]

    def fingerprint(self) -> str:
        """16 hexadecimal digits of all that decides the text."""
        parts = json.dumps([self.source, sorted(self.tokens.items())])
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def apply(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The text, as Transformers' `apply_chat_template` has it.

        Raises:
          ValueError: with the template's own words if it rejects the conversation.
        """
        return self.template.render(
            {
                **self.tokens,
                "messages": [{"role": m.role, "content": m.content} for m in messages],
                "add_generation_prompt": add_generation_prompt,
                "tools": None,
                "documents": None,
            }
        )

    def write(self, history: Sequence[Message], reply: str) -> tuple[str, str]:
        """Prompt and target (`chat.Style`).

        The text's first `bos_token` and the target's last `eos_token` are left out: beginning and
        end of sequence are tokens that the task and the model add. Inside of the history they stay
        text, of which `chat_specials` makes their ids; a vocabulary in which they are no special
        tokens spells them (`ul2tune inspect`).

        Raises:
          ValueError: if the template rewrites the history once the reply is there, so that no
            place separates the two.
        """
        inputs = self.apply(history, add_generation_prompt=True)
        whole = self.apply([*history, Message("assistant", reply)])
        if not whole.startswith(inputs):
            raise ValueError(
                f"{self.template.name}: the conversation with its reply does not begin with the "
                f"prompt, which ends {inputs[-60:]!r}. Write the format as a chat.ChatFormat."
            )
        targets, end = whole[len(inputs) :], self.tokens.get("eos_token", "")
        if end and targets.rstrip().endswith(end):
            targets = targets.rstrip().removesuffix(end)
        return inputs.removeprefix(self.tokens.get("bos_token", "")), targets


def load(path: str | Path) -> ChatTemplate:
    """Reads a `tokenizer_config.json`, or the template alone (`chat_template.jinja`).

    Where the configuration names several templates, it is the one called "default". Without a
    configuration beside it, a lone template has no special tokens.

    Raises:
      ValueError: if there is no template, or it uses what the sandbox does not have.
    """
    path = Path(path)
    if path.suffix != ".json":
        beside = path.with_name("tokenizer_config.json")
        data = reading.read_object(beside) if beside.exists() else {}
        return compiled(reading.read_text(path), name=str(path), tokens=_tokens(data))
    data = reading.read_object(path)
    source = data.get("chat_template")
    if isinstance(source, list):
        several = reading.objects(data, "chat_template", str(path))
        source = {str(item.get("name")): item.get("template") for item in several}.get("default")
    if not isinstance(source, str):
        raise ValueError(
            f"{path} has no 'chat_template': use the model's chat_template.jinja, where some keep "
            f"it, or a chat_format.json of your own; without any of them roles are plain names."
        )
    return compiled(source, name=f"chat_template of {path}", tokens=_tokens(data))


def compiled(
    source: str, *, name: str = "chat template", tokens: Mapping[str, str] | None = None
) -> ChatTemplate:
    """A template given as text.

    Raises:
      ValueError: if it does not parse or uses what the sandbox does not have.
    """
    template = compile_template(source, name=name, trim=True)
    return ChatTemplate(template=template, source=source, tokens=dict(tokens or {}))


def _tokens(data: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens, which are strings or objects with their `content`."""
    found = {}
    for key in _TOKENS:
        value = data.get(key)
        text = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(text, str):
            found[key] = text
    return found
