"""The schema of PromptSource's `templates.yaml`, checked with line numbers.

The YAML is read as a tree of scalars, lists and mappings: no tag constructs anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ul2tune.instructions import reading

_LARGEST_BYTES = 4_000_000
_DEEPEST = 10
_TEMPLATE, _METADATA = "!Template", "!TemplateMetadata"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STR, _NULL, _BOOL = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "null", "bool"))
_TRUE = frozenset({"yes", "true", "on"})
# A flag of an older release, which says nothing about the prompt.
_IGNORED = frozenset({"task_template"})


@dataclass(frozen=True, kw_only=True)
class Document:
    """A file: `templates` are keyword arguments of `promptsource.templates.Template`."""

    dataset: str
    subset: str | None
    templates: tuple[dict[str, Any], ...]


def read(path: str | Path) -> Document:
    """Reads and checks one file.

    Raises:
      ValueError: naming file, line and what is wrong there.
    """
    return _Reader(path).document()


class _Reader:
    def __init__(self, path: str | Path):
        self.path = path

    def document(self) -> Document:
        root = self._root()
        fields = self._fields(root, {"dataset", "subset", "templates"}, required=("dataset",))
        templates = self._templates(fields.get("templates"), root)
        subset = self._text(fields["subset"], "subset", null=True) if "subset" in fields else None
        dataset = self._text(fields["dataset"], "dataset")
        assert dataset is not None
        return Document(dataset=dataset, subset=subset, templates=tuple(templates))

    def _root(self) -> yaml.MappingNode:
        try:
            data = reading.read_bytes(self.path)
            if len(data) > _LARGEST_BYTES:
                raise ValueError(f"{self.path}: larger than {_LARGEST_BYTES:,} bytes.")
            text = data.decode("utf-8")
            self._check_depth(text)
            root = yaml.compose(text, Loader=_LOADER)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: not valid UTF-8 ({error}).") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            reason = getattr(error, "problem", None) or str(error)
            raise ValueError(f"{self.path}{line}: not valid YAML ({reason}).") from error
        if not isinstance(root, yaml.MappingNode):
            raise ValueError(f"{self.path}: expected the keys dataset and templates.")
        return root

    def _check_depth(self, text: str) -> None:
        """Refuses deep nesting, on which PyYAML's C code would overflow the stack."""
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                line = event.start_mark.line + 1
                raise ValueError(f"{self.path}:{line}: nested more than {_DEEPEST} deep.")

    def _templates(self, node: yaml.Node | None, root: yaml.Node) -> Iterator[dict[str, Any]]:
        if node is None:
            raise self._error(root, "the key 'templates' is missing")
        names: dict[str, int] = {}
        for key, value in self._pairs(node, "templates"):
            fields = self._template(key, value)
            name, line = fields["name"], value.start_mark.line + 1
            if name in names:
                raise self._error(value, f"the name {name!r} is already that of line {names[name]}")
            names[name] = line
            yield fields

    def _template(self, key: str, node: yaml.Node) -> dict[str, Any]:
        if node.tag != _TEMPLATE:
            raise self._error(node, f"template {key!r} must have the tag {_TEMPLATE}")
        known = {"answer_choices", "id", "jinja", "metadata", "name", "reference"}
        found = self._fields(node, known, required=("jinja", "name"))
        fields: dict[str, Any] = {"id": key, "where": f"{self.path}:{node.start_mark.line + 1}"}
        for name in ("name", "id", "jinja"):
            if name in found:
                fields[name] = self._text(found[name], name)
        if "answer_choices" in found:
            fields["answer_choices"] = self._text(
                found["answer_choices"], "answer_choices", null=True
            )
        if "reference" in found:
            fields["reference"] = self._text(found["reference"], "reference", null=True) or ""
        return fields | self._metadata(found.get("metadata"))

    def _metadata(self, node: yaml.Node | None) -> dict[str, Any]:
        if node is None:
            return {}
        if node.tag != _METADATA:
            raise self._error(node, f"'metadata' must have the tag {_METADATA}")
        flags, lists = ("original_task", "choices_in_prompt"), ("metrics", "languages")
        found = self._fields(node, {*flags, *lists})
        fields: dict[str, Any] = {n: self._texts(found[n], n) for n in lists if n in found}
        fields |= {n: self._flag(found[n], n) for n in flags if n in found}
        if fields.get("original_task", False) is None:
            fields["original_task"] = False
        return fields

    def _fields(
        self, node: yaml.Node, known: set[str], required: tuple[str, ...] = ()
    ) -> dict[str, yaml.Node]:
        fields = dict(self._pairs(node, "this entry"))
        for name in fields:
            if name not in known | _IGNORED:
                raise self._error(fields[name], f"unknown key {name!r}; keys are {sorted(known)}")
        for name in required:
            if name not in fields:
                raise self._error(node, f"the key {name!r} is missing")
        return fields

    def _pairs(self, node: yaml.Node, what: str) -> list[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} must be a mapping")
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be plain text")
            if key.value in seen:
                raise self._error(key, f"the key {key.value!r} appears twice")
            seen.add(key.value)
        return [(key.value, value) for key, value in node.value]

    def _text(self, node: yaml.Node, name: str, *, null: bool = False) -> str | None:
        if null and node.tag == _NULL:
            return None
        if not isinstance(node, yaml.ScalarNode) or node.tag != _STR:
            raise self._error(node, f"{name!r} must be text; quote it if it is")
        return node.value

    def _texts(self, node: yaml.Node, name: str) -> tuple[str, ...]:
        if node.tag == _NULL:
            return ()
        if not isinstance(node, yaml.SequenceNode):
            raise self._error(node, f"{name!r} must be a list")
        return tuple(self._text(item, name) or "" for item in node.value)

    def _flag(self, node: yaml.Node, name: str) -> bool | None:
        if node.tag == _NULL:
            return None
        if node.tag != _BOOL or not isinstance(node, yaml.ScalarNode):
            raise self._error(node, f"{name!r} must be true or false")
        return node.value.lower() in _TRUE

    def _error(self, node: yaml.Node, reason: str) -> ValueError:
        return ValueError(f"{self.path}:{node.start_mark.line + 1}: {reason}.")
