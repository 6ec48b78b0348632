"""How Flan writes answer options and dialogues: one fixed form, or a random style per example.

    OPTIONS:            Choose from:            Phone call:
    - yes                (A). yes;              Speaker 1: Hello.
    - no                 (B). no;               Speaker 2:

A style is a start string, the name of each item and the mark after it, drawn independently of each
other. Candidates are data (`v2_option_dialog_formats.json`): a list of strings for the starts; for
names and marks ``{"items": ["\\nA. ", "\\nB. ", …]}``, or ``{"repeat": ["\\n- "]}``, which cycles.

DIVERGES (unless `compat`): the published lists have 87 item styles of which 24 repeat others (the
":" styles were typed as "."), and a comma is missing between two dialogue starts. By default every
distinct style is as likely as another, and the two starts are two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune.instructions.patterns import WHITESPACE
from ul2tune.instructions.reading import read_object
from ul2tune.instructions.records import stable_hash

MAX_OPTIONS = 26
MAX_TURNS = 1000
_MERGED_STARTS = {"CONVERSATION:Conversation:": ("CONVERSATION:", "Conversation:")}
_KEYS = tuple(
    f"{kind}_{part}_CANDIDATES"
    for kind in ("OPT", "DIALOG")
    for part in ("START_STRING", "ITEM_NAME", "ITEM_END_STR")
)


@dataclass(frozen=True, kw_only=True)
class Styles:
    """Candidates of one kind.

    Attributes:
      starts: what stands first.
      names: each style's names of the items, in order.
      ends: what follows each item.
    """

    starts: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    ends: tuple[tuple[str, ...], ...]

    def draw(self, *key: str | int) -> Style:
        """An independent uniform draw of each part; the key decides it."""
        return Style(
            start=self.starts[stable_hash("start", *key) % len(self.starts)],
            names=self.names[stable_hash("names", *key) % len(self.names)],
            ends=self.ends[stable_hash("ends", *key) % len(self.ends)],
        )


@dataclass(frozen=True, kw_only=True)
class Style:
    """One style."""

    start: str
    names: tuple[str, ...]
    ends: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Formats:
    """Styles of options and of dialogues."""

    options: Styles
    dialogs: Styles


@dataclass(frozen=True, kw_only=True)
class StyledOptions:
    """Options in a style.

    Attributes:
      text: what `{options_}` stands for.
      answer: the answer in the form that the prompt asks for.
      choices: all options in that form.
    """

    text: str
    answer: str
    choices: tuple[str, ...]


def load_formats(path: str | Path, *, compat: bool = False) -> Formats:
    """Reads the candidates.

    Args:
      path: `v2_option_dialog_formats.json`.
      compat: keep repeated styles and the two merged starts, as published.

    Raises:
      ValueError: naming the file and the key that is wrong.
    """
    data = read_object(path)
    for key in _KEYS:
        if not isinstance(data.get(key), list) or not data[key]:
            raise ValueError(f"{path}: {key!r} must be a list that is not empty.")
    options, dialogs = (
        _styles(data, path, kind, limit)
        for kind, limit in (("OPT", MAX_OPTIONS), ("DIALOG", MAX_TURNS))
    )
    if compat:
        return Formats(options=options, dialogs=dialogs)
    return Formats(options=distinct(options), dialogs=distinct(dialogs))


def distinct(styles: Styles) -> Styles:
    """Every candidate once, and merged starts apart."""
    starts = [one for start in styles.starts for one in _MERGED_STARTS.get(start, (start,))]
    return Styles(
        starts=tuple(dict.fromkeys(starts)),
        names=tuple(dict.fromkeys(styles.names)),
        ends=tuple(dict.fromkeys(styles.ends)),
    )


def plain_options(options: Sequence[str]) -> str:
    """The fixed form.

    >>> plain_options(["yes", "no"])
    'OPTIONS:\\n- yes\\n- no'
    """
    return "OPTIONS:\n- " + "\n- ".join(options)


def styled_options(options: Sequence[str], answer: str, style: Style) -> StyledOptions:
    """Options in a style. Where its names tell the items apart ("(A).", but not "-"), an answer
    that is one of the options becomes the name of that item, without outer white space.

    Raises:
      ValueError: if there are more options than names.
    """
    if not 0 < len(options) <= len(style.names):
        raise ValueError(
            f"A style names up to {len(style.names)} options, got {len(options)}; use "
            f"`plain_options` for more."
        )
    names = style.names[: len(options)]
    text = style.start + "".join(
        name + option + end for name, option, end in zip(names, options, style.ends)
    )
    stripped = [name.strip(WHITESPACE) for name in names]
    matches = [
        i
        for i, option in enumerate(options)
        if option.strip(WHITESPACE) == answer.strip(WHITESPACE)
    ]
    if matches and len(set(stripped)) == len(stripped):
        return StyledOptions(text=text, answer=stripped[matches[0]], choices=tuple(stripped))
    return StyledOptions(text=text, answer=answer, choices=tuple(options))


def plain_dialog(turns: Sequence[str]) -> str:
    """The fixed form; it ends where the next turn begins.

    >>> plain_dialog(["Hi!", "Hello."])
    'DIALOG:\\nHi!\\n- Hello.\\n- '
    """
    return "DIALOG:\n" + "\n- ".join(turns) + "\n- "


def styled_dialog(turns: Sequence[str], style: Style) -> str:
    """A dialogue in a style, ending with the mark of the next speaker.

    Raises:
      ValueError: if there are more turns than names.
    """
    if not 0 < len(turns) < len(style.names):
        raise ValueError(
            f"A style has room for {len(style.names) - 1} turns, got {len(turns)}; use "
            f"`plain_dialog` for more."
        )
    items = zip(style.names, turns, style.ends)
    return style.start + "".join(map("".join, items)) + style.names[len(turns)]


def _styles(data: Mapping[str, Any], path: str | Path, kind: str, length: int) -> Styles:
    starts = data[f"{kind}_START_STRING_CANDIDATES"]
    if not all(isinstance(start, str) for start in starts):
        raise ValueError(f"{path}: '{kind}_START_STRING_CANDIDATES' must be a list of strings.")
    parts = []
    for key in (f"{kind}_ITEM_NAME_CANDIDATES", f"{kind}_ITEM_END_STR_CANDIDATES"):
        rows = [_expand(row, f"{path}: {key}[{i}]", length) for i, row in enumerate(data[key])]
        parts.append(tuple(rows))
    return Styles(starts=tuple(starts), names=parts[0], ends=parts[1])


def _expand(row: Any, where: str, length: int) -> tuple[str, ...]:
    if not isinstance(row, Mapping) or len(row) != 1 or next(iter(row)) not in ("items", "repeat"):
        raise ValueError(f'{where}: expected {{"items": […]}} or {{"repeat": […]}}.')
    ((kind, values),) = row.items()
    if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
        raise ValueError(f"{where}: {kind!r} must be a list of strings that is not empty.")
    if kind == "repeat":
        return tuple(values[i % len(values)] for i in range(length))
    if len(values) < length:
        raise ValueError(f"{where}: 'items' needs {length} strings, got {len(values)}.")
    return tuple(values[:length])
