"""PromptSource: `templates.yaml` files -> prompts for rows of data sets.

    prompts = load("templates/super_glue/cb/templates.yaml")
    prompt = prompts["can we infer"].compile()
    prompt.apply(row)            # ["Suppose … Yes, no, or maybe?", "Maybe"]
    render(prompt, row, seed=0)  # the same as `Rendered`, or None where there is nothing to learn

Source: Bach et al. 2022 (arXiv:2202.01279), `promptsource/templates.py`, whose text is reproduced
byte for byte; templates run in `sandbox`, which PromptSource does without. A file holds

    dataset: super_glue
    subset: cb                          # absent if there is none
    templates:
      <uuid>: !Template
        answer_choices: Yes ||| No      # Jinja; null = free text
        id: <uuid>
        jinja: '{{premise}} … ||| {{answer_choices[label]}}'
        metadata: !TemplateMetadata {choices_in_prompt, languages, metrics, original_task}
        name: can we infer
        reference: …
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune.instructions.promptsource import template_yaml as schema
from ul2tune.instructions.records import Rendered
from ul2tune.instructions.sandbox import CompiledTemplate, compile_template

# Longest text, in characters, that one expression inserts.
TEXT_LENGTH = 2048
_SEPARATOR = "|||"
_MOST_PARTS = 100_000
# What stands for the separator inside the row's own text while a template renders.
_PROTECTED = "3ed2dface8203c4c9dfb1a5dc58e41e0"
# t-zero's target for an input without one.
NO_LABEL = "<NO LABEL>"


@dataclass(frozen=True, kw_only=True)
class Template:
    """One prompt template.

    Attributes:
      name: unique within the data set.
      id: its UUID.
      jinja: the text; one `|||` separates input from target.
      where: file and line, for messages.
      answer_choices: Jinja expression of a `|||`-separated list; None = free text.
      reference: where it is from.
      original_task: it poses the task the data set was made for.
      choices_in_prompt: the input names the choices; None = not stated.
      metrics, languages: as the file states them.
    """

    name: str
    id: str
    jinja: str
    where: str
    answer_choices: str | None = None
    reference: str = ""
    original_task: bool = False
    choices_in_prompt: bool | None = None
    metrics: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()

    def compile(self, *, truncate: bool = True) -> Prompt:
        """Ready to apply. `truncate` cuts inserted text at :data:`TEXT_LENGTH` characters.

        Raises:
          ValueError: if the template is not valid or not allowed, with file, line and reason.
        """
        return Prompt(self, truncate=truncate)


@dataclass(frozen=True, kw_only=True)
class DatasetTemplates:
    """The templates of one data set: one file.

    Attributes:
      dataset, subset: Hugging Face names; a subset of None = the data set has none.
      templates: in the order of the file.
    """

    dataset: str
    subset: str | None
    templates: tuple[Template, ...]

    def __getitem__(self, name: str) -> Template:
        found = next((t for t in self.templates if t.name == name), None)
        if found is None:
            raise KeyError(f"{self.dataset}/{self.subset} has no template {name!r}: {self.names}")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Sorted, as PromptSource lists them."""
        return tuple(sorted(template.name for template in self.templates))


def load(path: str | Path) -> DatasetTemplates:
    """Reads one `templates.yaml`.

    Raises:
      ValueError: naming file, line and what is wrong there.
    """
    document = schema.read(path)
    templates = tuple(Template(**fields) for fields in document.templates)
    return DatasetTemplates(dataset=document.dataset, subset=document.subset, templates=templates)


def load_folder(folder: str | Path) -> dict[tuple[str, str | None], DatasetTemplates]:
    """Reads all `templates.yaml` below a folder, by (dataset, subset).

    Raises:
      ValueError: if there are none, two are for the same data set, or one is malformed.
    """
    found: dict[tuple[str, str | None], DatasetTemplates] = {}
    for path in sorted(Path(folder).rglob("templates.yaml")):
        loaded = load(path)
        key = (loaded.dataset, loaded.subset)
        if key in found:
            raise ValueError(f"{path}: another file is also for data set {key}.")
        found[key] = loaded
    if not found:
        raise ValueError(f"{folder}: no templates.yaml in it or below; give PromptSource's folder.")
    return found


class Prompt:
    """A compiled template. Applying it depends on row and seed alone, in every process."""

    def __init__(self, template: Template, *, truncate: bool = True):
        self.template = template
        where = f"{template.where}: template {template.name!r}"
        self._prompt = compile_template(_insertion(template.jinja, truncate), name=where)
        self._choices: CompiledTemplate | None = None
        if template.answer_choices is not None:
            self._choices = compile_template(
                template.answer_choices, name=f"{where}, answer_choices"
            )

    @property
    def is_random(self) -> bool:
        """It draws phrasings or examples, by the seed."""
        choices = self._choices
        return self._prompt.facts.is_random or (choices is not None and choices.facts.is_random)

    @functools.cached_property
    def fixed_choices(self) -> tuple[str, ...] | None:
        """The answer choices if no row changes them, else None."""
        if self._choices is None or self._choices.facts.variables:
            return None
        return tuple(part.strip() for part in _split(self._choices, self._choices.render({})))

    def answer_choices(self, row: Mapping[str, Any], *, seed: int = 0) -> list[str] | None:
        """The row's answer choices; None = free text."""
        if self._choices is None:
            return None
        if self.fixed_choices is not None and not self._choices.facts.is_random:
            return list(self.fixed_choices)
        row = copy.deepcopy(row) if self._choices.facts.is_mutating else row
        parts = _split(self._choices, self._choices.render(_protected(row), seed=seed))
        return [_unprotected(part.strip()) for part in parts]

    def apply(self, row: Mapping[str, Any], *, seed: int = 0) -> list[str]:
        """The parts between separators, without outer white space: input and target if all is well.

        ``[""]`` means that the template does not apply to the row.

        Args:
          row: column -> value; plain JSON values.
          seed: seeds `random.Random`, from which the random filters draw: choices first, as after
            `random.seed(seed)` in PromptSource.

        Raises:
          ValueError: if the row has a column `answer_choices`, or the template fails on it.
        """
        return self._parts(row, self.answer_choices(row, seed=seed), seed)

    def _parts(self, row: Mapping[str, Any], choices: list[str] | None, seed: int) -> list[str]:
        if "answer_choices" in row:
            raise ValueError(
                f"{self._prompt.name}: the row has a column 'answer_choices', which is the name "
                f"of the template's choices. Rename the column."
            )
        if self._prompt.facts.is_mutating:
            row = copy.deepcopy(row)
        values = _protected(row)
        values["answer_choices"] = choices
        parts = _split(self._prompt, self._prompt.render(values, seed=seed))
        return [_unprotected(part).strip() for part in parts]


def render(
    prompt: Prompt | Template, row: Mapping[str, Any], *, seed: int = 0, truncate: bool = True
) -> Rendered | None:
    """Input, target and choices of one row as t-zero makes them; None = the row is skipped.

    Hyphens in column names become underscores; an empty target becomes ``"<NO LABEL>"``; rows with
    an empty input, or with more or fewer than two parts, are skipped. Identical choices are one,
    and a single one is no choice (DIVERGES: t-zero scores each copy; the ranking is the same).

    Args:
      prompt: compiled (`truncate` is then decided already), or a template.
      row: column -> value.
      seed: of this row's draws.
      truncate: as for :meth:`Template.compile`.
    """
    if isinstance(prompt, Template):
        prompt = _compiled(prompt, truncate)
    row = {name.replace("-", "_"): value for name, value in row.items()}
    choices = prompt.answer_choices(row, seed=seed)
    parts = prompt._parts(row, choices, seed)
    if len(parts) != 2 or not parts[0]:
        return None
    different = tuple(dict.fromkeys(choices or ()))
    return Rendered(
        inputs=parts[0],
        targets=parts[1] or NO_LABEL,
        answer_choices=different if len(different) > 1 else (),
    )


@functools.lru_cache(maxsize=4096)
def _compiled(template: Template, truncate: bool) -> Prompt:
    return Prompt(template, truncate=truncate)


def _insertion(jinja: str, truncate: bool) -> str:
    # On the text, as PromptSource: it also reaches a dictionary's end, and turns numbers to text.
    if not truncate:
        return jinja
    return jinja.replace("}}", f" | string | truncate({TEXT_LENGTH}) }}}}")


def _split(template: CompiledTemplate, text: str) -> list[str]:
    if text.count(_SEPARATOR) > _MOST_PARTS:
        raise ValueError(f"{template.name}: refused, because it makes over {_MOST_PARTS} parts.")
    return text.split(_SEPARATOR)


def _protected(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.replace(_SEPARATOR, _PROTECTED) if isinstance(value, str) else value
        for name, value in row.items()
    }


def _unprotected(text: str) -> str:
    return text.replace(_PROTECTED, _SEPARATOR)
