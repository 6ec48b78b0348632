"""Self-Instruct: seed tasks, generated instances and user-oriented tasks -> records -> prompts.

Source: Wang et al. 2023 (arXiv:2212.10560) and the `yizhongw/self-instruct` repository. Rows:

    {"id", "instruction", "instances": [{"input", "output"}, …], "is_classification"}   seed tasks
    {"id", "instruction", "instances": […], "motivation_app"}               user-oriented tasks
    {"instruction", "input", "output"}                                      generated instances
    {"prompt", "completion"}                                   already rendered, for fine-tuning

The authors' templates, seven with input and six without, are read from your copy of their
`self_instruct/prepare_for_finetuning.py` (or from JSON): :func:`load_templates`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune.instructions import reading, row_files
from ul2tune.instructions.records import Record, Rendered, stable_hash

BENCHMARK = "self_instruct"
# GPT-3's end of text closes the authors' completions. Ours is a token that the task appends.
END = "<|endoftext|>"
RENDERED = "rendered"
_LISTS = {
    "encoding_templates_w_input": "with_input",
    "encoding_templates_wo_input": "without_input",
}
_FIELD = re.compile(r"\{(\w*)\}")
_LABEL = re.compile(r"(\w+):")


@dataclass(frozen=True, kw_only=True)
class Templates:
    """Pairs of prompt and completion with the fields {instruction}, {input} and {output}.

    Attributes:
      with_input, without_input: for instances whose input is not, or is, empty.

    Raises:
      ValueError: on construction, naming a template that lacks a field or has one too many.
    """

    with_input: tuple[tuple[str, str], ...]
    without_input: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        for name, prompt_fields in (
            ("with_input", {"instruction", "input"}),
            ("without_input", {"instruction"}),
        ):
            pairs = getattr(self, name)
            if not pairs:
                raise ValueError(f"{name!r} holds no template.")
            for prompt, completion in pairs:
                for text, expected in ((prompt, prompt_fields), (completion, {"output"})):
                    if set(_FIELD.findall(text)) != expected:
                        fields = " and ".join(f"{{{field}}}" for field in sorted(expected))
                        raise ValueError(f"{name!r}: {text!r:.80} must have exactly {fields}.")


# Without the authors' file: one of each kind.
DEFAULT = Templates(
    with_input=(("{instruction}\nInput: {input}\nOutput:", " {output}"),),
    without_input=(("{instruction}\n\n", "{output}"),),
)


def load_templates(path: str | Path) -> Templates:
    """Reads templates.

    Args:
      path: the authors' `prepare_for_finetuning.py`, which is parsed and never run; or JSON,
        ``{"with_input": [[prompt, completion], …], "without_input": […]}``.

    Raises:
      ValueError: naming the file and what is missing or malformed.
    """
    data = _literals(path) if Path(path).suffix == ".py" else reading.read_object(path)
    lists = {}
    for key in ("with_input", "without_input"):
        pairs = data.get(key)
        if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
            raise ValueError(
                f"{path}: {key!r} must be a list of pairs [prompt, completion], got {pairs!r:.80}."
            )
        lists[key] = tuple((prompt, completion) for prompt, completion in pairs)
    try:
        return Templates(**lists)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load(path: str | Path) -> Iterator[Record]:
    """The records of a file of any of the four layouts, in order.

    Raises:
      ValueError: naming file and line, the key that is wrong, and what it must be.
    """
    return row_files.load(path, parse)


def parse(row: Mapping[str, Any], where: str, identity: str) -> tuple[Record, ...]:
    """One row's records (`row_files.Parser`)."""
    if "completion" in row:
        completion = reading.string(row, "completion", where).removesuffix(END)
        prompt = reading.string(row, "prompt", where)
        return (_record(identity, "", prompt, completion, template_id=RENDERED),)
    instruction = reading.string(row, "instruction", where)
    category = reading.string(row, "motivation_app", where, "")
    if "is_classification" in row:
        if not isinstance(row["is_classification"], bool):
            value = row["is_classification"]
            raise ValueError(f"{where}: 'is_classification' must be true or false, got {value!r}.")
        category = "classification" if row["is_classification"] else "generation"
    if "instances" not in row:
        pair = reading.string(row, "input", where, ""), reading.string(row, "output", where)
        return (_record(identity, instruction, *pair, category=category),)
    base = reading.string(row, "id", where, identity)
    records = []
    for index, instance in enumerate(reading.objects(row, "instances", where)):
        place = f"{where}: instances[{index}]"
        pair = (reading.string(instance, key, place) for key in ("input", "output"))
        records.append(_record(f"{base}-{index}", instruction, *pair, category=category))
    return tuple(records)


def render(
    record: Record,
    seed: int,
    *,
    templates: Templates = DEFAULT,
    label_drop: float = 0.0,
    keep_end: bool = False,
) -> Rendered:
    """The prompt and completion of a template drawn by seed and record.

    A record whose `template_id` is a number uses that template. DIVERGES: the authors draw from
    Python's global generator, so their choice depends on every example before.

    Args:
      record: of this module's :func:`load`.
      seed: of both draws.
      templates: the two lists.
      label_drop: with this probability :func:`drop_label` cleans the input; the authors' is 0.5.
      keep_end: leave ``<|endoftext|>`` where a template has it.
    """
    target = record.targets[0]
    if record.template_id == RENDERED:
        return Rendered(inputs=record.input, targets=target)
    text = record.input
    if stable_hash(seed, "label", record.task, record.id) < label_drop * 2.0**64:
        text = drop_label(text)
    text = text.strip()
    pairs = templates.with_input if text else templates.without_input
    drawn = stable_hash(seed, "template", record.task, record.id)
    prompt, completion = pairs[int(record.template_id or drawn) % len(pairs)]
    values = {"instruction": record.instruction.strip(), "input": text, "output": target.strip()}
    return Rendered(
        inputs=_fill(prompt, values),
        targets=_fill(completion if keep_end else completion.removesuffix(END), values),
    )


def drop_label(text: str) -> str:
    """Removes a leading field name if there is only one in the text, and empty lines.

    >>> drop_label("Sentence: It rains.")
    'It rains.'
    >>> drop_label("From: Jo To: Al")
    'From: Jo To: Al'
    """
    only = len(set(_LABEL.findall(text))) == 1
    return (text.split(":", 1)[1] if only else text).strip().replace("\n\n", "\n")


def _record(
    identity: str, instruction: str, text: str, output: str, *, category="", template_id=""
) -> Record:
    return Record(
        id=identity,
        task=BENCHMARK,
        category=category,
        benchmark=BENCHMARK,
        instruction=instruction,
        input=text,
        targets=(output,),
        template_id=template_id,
        metric_names=("rouge_l",),
    )


def _fill(template: str, values: Mapping[str, str]) -> str:
    # In one pass, so that braces in an instance stay what they are.
    return _FIELD.sub(lambda match: values[match[1]], template)


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(text, str) for text in value)
    )


def _literals(path: str | Path) -> dict[str, Any]:
    """The lists of templates that a Python file assigns."""
    try:
        tree = ast.parse(reading.read_text(path))
        found = {
            _LISTS[node.targets[0].id]: ast.literal_eval(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in _LISTS
        }
    except SyntaxError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid Python ({error.msg}).") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if absent := [name for name, key in _LISTS.items() if key not in found]:
        raise ValueError(f"{path} assigns no list of the name {absent[0]!r}.")
    return found
