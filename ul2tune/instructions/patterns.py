"""Flan's patterns: text with `{field}` in it, read from JSON as data and never evaluated.

    pattern = compile_pattern("{premise}\\nCan we infer: {hypothesis}?\\n{options_}")
    pattern.render({"premise": …, "hypothesis": …, "options_": …})

A field is a word in braces and nothing else: what `str.format` would make of attributes, indices,
conversions and widths (``{a.b}``, ``{a[0]}``, ``{a!r}``, ``{a:99999}``) is refused on reading, and
so are patterns and results beyond a size. Files are FLAN's literals as JSON:

    {"rte": [["{premise}…{options_}", "{answer}"], …], …}        zero-shot, (inputs, targets)
    {"rte": [{"inputs": …, "targets": …, "inputs_prefix": …, "targets_prefix": …,
              "x_y_delimiter": …, "example_separator": …, "final_suffix": …,
              "input_pattern": …, "in_template_mix": true}, …], …}               few-shot
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ul2tune.instructions.reading import read_object

_FIELD = re.compile(r"\{(\w+)\}", re.ASCII)
# What `tf.strings.strip` strips; Python's `strip` would take Unicode's spaces too.
WHITESPACE = " \t\n\r\v\f"
MAX_PATTERN = 50_000  # characters
MAX_FIELDS = 64
MAX_RENDERED = 16_000_000  # characters
# What NOOPT removes, in this order (FLAN's `PATTERNS_NO_OPTIONS`, `FEWSHOT_PATTERNS_NO_OPTIONS`).
_NO_OPTIONS = ("\n\n{options_}", "\n{options_}", "{options_}", "\n\n{options_str}")
_NO_OPTIONS_FEW_SHOT = (
    "\n\n{options_}",
    "\n{options_}",
    " | {options_}",
    " {options_}",
    " ({options_})",
    "{options_}",
    "\n\n{options_str}",
    "\n{options_str}",
)


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern.

    Attributes:
      text: as written.
      where: its place, for error messages.
      literals, names: what stands around and between the fields, and the fields, in order.
    """

    text: str
    where: str = field(repr=False, compare=False)
    literals: tuple[str, ...] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    def fingerprint(self) -> str:
        """What decides its text: not the file it is from."""
        return self.text

    def render(self, values: Mapping[str, str]) -> str:
        """Fills in the fields.

        Raises:
          ValueError: if a field is missing or no string, or the result is too long.
        """
        literals = self.literals
        parts = [literals[0]]
        for name, literal in zip(self.names, literals[1:]):
            value = values.get(name)
            if not isinstance(value, str):
                raise ValueError(self._complaint(name, values))
            parts.append(value)
            parts.append(literal)
        if sum(map(len, parts)) > MAX_RENDERED:
            raise ValueError(
                f"{self.where}: the text would have more than {MAX_RENDERED} characters; "
                f"shorten the row's fields."
            )
        return "".join(parts)

    def _complaint(self, name: str, values: Mapping[str, str]) -> str:
        if name in values:
            found = f"{values[name]!r:.60} of type {type(values[name]).__name__}, not a string"
        else:
            found = f"missing; the row has {sorted(values)}"
        return f"{self.where}: the field {name!r} of pattern {self.text!r:.80} is {found}."


@dataclass(frozen=True)
class Template:
    """A zero-shot template."""

    inputs: Pattern
    targets: Pattern


@dataclass(frozen=True, kw_only=True)
class FewShotPattern:
    """A few-shot template. An exemplar is

        {inputs_prefix}{inputs}{x_y_delimiter}{targets_prefix}{targets}{example_separator}

    and the query the same up to `targets_prefix`; `final_suffix` follows, and all of it goes
    through `input_pattern`.

    Attributes:
      in_template_mix: part of `template_mix_five_shot`.
    """

    inputs: str
    targets: str
    inputs_prefix: str = ""
    targets_prefix: str = ""
    x_y_delimiter: str = "\n\n"
    example_separator: str = "\n\n\n"
    final_suffix: str = ""
    input_pattern: str = "{{inputs}}{final_suffix}"
    in_template_mix: bool = True
    where: str = "pattern"

    def combined(self) -> Template:
        """As one template: both prefixes and the delimiter belong to the inputs."""
        inputs = self.inputs_prefix + self.inputs + self.x_y_delimiter + self.targets_prefix
        return Template(
            compile_pattern(inputs, f"{self.where}, inputs"),
            compile_pattern(self.targets, f"{self.where}, targets"),
        )

    def wrapper(self) -> Pattern:
        """`input_pattern` with the suffix in it; its field `inputs` is exemplars and query."""
        return compile_wrapper(
            self.input_pattern, self.final_suffix, f"{self.where}, input_pattern"
        )


Templates = Mapping[str, tuple[Template, ...]]
FewShotPatterns = Mapping[str, tuple[FewShotPattern, ...]]


def compile_pattern(text: str, where: str = "pattern") -> Pattern:
    """Reads a pattern.

    Raises:
      ValueError: naming `where` and what is not a plain field, or too long.
    """
    if not isinstance(text, str):
        raise ValueError(f"{where}: a pattern must be a string, got {type(text).__name__}.")
    if len(text) > MAX_PATTERN:
        raise ValueError(
            f"{where}: a pattern has at most {MAX_PATTERN} characters, got {len(text)}."
        )
    pieces = _FIELD.split(text)
    literals, names = tuple(pieces[0::2]), tuple(pieces[1::2])
    for literal in literals:
        if "{" in literal or "}" in literal:
            raise ValueError(
                f"{where}: {literal!r:.80} has a brace that does not belong to a plain field. A "
                f"field is a word in braces, such as {{premise}}; there are no attributes, "
                f"indices, conversions or formats."
            )
    if len(names) > MAX_FIELDS:
        raise ValueError(f"{where}: a pattern has at most {MAX_FIELDS} fields, got {len(names)}.")
    return Pattern(text, where, literals, names)


def compile_wrapper(text: str, final_suffix: str, where: str = "input_pattern") -> Pattern:
    """Reads an `input_pattern`, which FLAN formats twice: its braces are doubled but for
    ``{final_suffix}``."""
    if not isinstance(text, str):
        raise ValueError(f"{where}: a pattern must be a string, got {type(text).__name__}.")
    pieces = text.split("{final_suffix}")
    if any(re.search(r"(?<!\{)\{(?!\{)|(?<!\})\}(?!\})", piece) for piece in pieces):
        raise ValueError(
            f"{where}: {text!r:.80} must name its fields in double braces, such as {{{{inputs}}}}, "
            f"and the suffix as {{final_suffix}}."
        )
    plain = [piece.replace("{{", "{").replace("}}", "}") for piece in pieces]
    pattern = compile_pattern(final_suffix.join(plain), where)
    if "inputs" not in pattern.names:
        raise ValueError(f"{where}: {text!r:.80} has no {{{{inputs}}}}.")
    return pattern


def load_templates(path: str | Path) -> dict[str, tuple[Template, ...]]:
    """Reads zero-shot patterns: group -> templates.

    Raises:
      ValueError: naming file, group, template and what is wrong.
    """
    groups = {}
    for group, rows in _groups(path).items():
        templates = []
        for index, row in enumerate(rows):
            where = f"{path}: group {group!r}, template {index}"
            if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != 2:
                raise ValueError(f"{where}: expected [inputs, targets], got {row!r:.80}.")
            templates.append(
                Template(
                    compile_pattern(row[0], f"{where}, inputs"),
                    compile_pattern(row[1], f"{where}, targets"),
                )
            )
        groups[group] = tuple(templates)
    return groups


def load_few_shot(path: str | Path) -> dict[str, tuple[FewShotPattern, ...]]:
    """Reads few-shot patterns: group -> patterns.

    Raises:
      ValueError: naming file, group, template and what is wrong.
    """
    known = {f.name for f in fields(FewShotPattern)} - {"where"}
    groups = {}
    for group, rows in _groups(path).items():
        patterns = []
        for index, row in enumerate(rows):
            where = f"{path}: group {group!r}, template {index}"
            if not isinstance(row, Mapping):
                raise ValueError(f"{where}: expected an object, got {type(row).__name__}.")
            if unknown := sorted(set(row) - known):
                raise ValueError(f"{where}: unknown key {unknown[0]!r}; keys are {sorted(known)}.")
            if missing := sorted({"inputs", "targets"} - set(row)):
                raise ValueError(f"{where}: the key {missing[0]!r} is missing.")
            for key, value in row.items():
                expected = bool if key == "in_template_mix" else str
                if not isinstance(value, expected):
                    raise ValueError(
                        f"{where}: {key!r} must be a {expected.__name__}, got {value!r:.60}."
                    )
            pattern = FewShotPattern(**row, where=where)
            pattern.combined()
            pattern.wrapper()
            patterns.append(pattern)
        groups[group] = tuple(patterns)
    return groups


def without_options(
    templates: Templates, branched: Templates | None = None
) -> dict[str, tuple[Template, ...]]:
    """The NOOPT templates: `branched` ones where there are, the others with the options taken out.

    Source: `PATTERNS_NO_OPTIONS` of FLAN v2; targets stay as they are.
    """
    merged = {**templates, **(branched or {})}
    return {
        group: tuple(
            Template(_removed(template.inputs, _NO_OPTIONS), template.targets)
            for template in members
        )
        for group, members in merged.items()
    }


def few_shot_without_options(patterns: FewShotPatterns) -> dict[str, tuple[FewShotPattern, ...]]:
    """The NOOPT few-shot patterns (`FEWSHOT_PATTERNS_NO_OPTIONS` of FLAN v2)."""
    return {
        group: tuple(
            replace(pattern, inputs=_remove(pattern.inputs, _NO_OPTIONS_FEW_SHOT))
            for pattern in members
        )
        for group, members in patterns.items()
    }


def _groups(path: str | Path) -> dict[str, list[Any]]:
    data = read_object(path)
    for group, rows in data.items():
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"{path}: group {group!r} must be a list of templates, not empty.")
    return data


def _removed(pattern: Pattern, removals: Sequence[str]) -> Pattern:
    return compile_pattern(_remove(pattern.text, removals), pattern.where)


def _remove(text: str, removals: Sequence[str]) -> str:
    for removal in removals:
        text = text.replace(removal, "")
    return text
