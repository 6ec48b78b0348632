"""The Flan 2022 collection (Longpre et al. 2023, arXiv:2301.13688): families of prompts per task.

    tables = Tables.load(folder)                       # patterns, styles, task tables
    for family in FAMILIES["flan2021"]:                # zs_opt, fs_opt_mix, fs_opt_x, zs_noopt, …
        mode, layout = prompting(tables, "rte", family)
        corpus = TemplatedCorpus(task="rte", rows=JsonlRows(folder=…), mode=mode)
        few_shot.render(record, seed, layout=layout)   # `few_shot.render_zero_shot` without layout
    fill(Row(id="1", fields={"premise": …}), mode.templates[0]).inputs      # one row, one template

| family | authors' name | prompt |
|---|---|---|
| zs_opt | template_0to10[_non_deter_opt]_zero_shot | options and dialogue in a random style |
| zs_noopt | template_0to10_no_opt_zero_shot | options taken out |
| fs_opt_mix | template_mix_five_shot | 5 exemplars, each in a template of its own |
| fs_opt_x, fs_noopt_x | template_0to10[_no_opt]_x_shot | 2 or 3 exemplars in the query's template |

For Natural Instructions, fs_opt_mix are the inline patterns with one explained example, and
fs_opt_x has two exemplars under the definition. Rates: `flan2022_mixture`.

The authors' quirks, all behind ``compat=True``: templates in turn and incomplete rounds dropped
(`flan.corpus`); the query may be its own exemplar; one separator of `template_mix` per task, which
theirs drew while importing; an example that no exemplar fits is dropped; separators do not count
towards the length; repeated styles and two starts run together (`options`); answers named by
options that their template does not show (two templates of stsb); T0's line ends
(`flan.rows.t0_row`); Natural Instructions' targets keep the separator's line ends, have no length
limit and the first reference alone; answers of fs_opt_x and fs_noopt_x end with a visible separator
of their template ("yes" and "--"); inputs of 2,056 tokens (`sequence_lengths`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ul2tune.instructions import patterns
from ul2tune.instructions.few_shot import MAX_TOKENS_V2, MIX_SEPARATORS, Layout
from ul2tune.instructions.flan import flan2021
from ul2tune.instructions.flan.corpus import Mode
from ul2tune.instructions.options import Formats, load_formats
from ul2tune.instructions.patterns import (
    WHITESPACE,
    FewShotPattern,
    FewShotPatterns,
    Template,
    Templates,
)
from ul2tune.instructions.reading import read_object, read_table
from ul2tune.instructions.records import TemplateStyle

Family = Literal["zs_opt", "zs_noopt", "fs_opt_mix", "fs_opt_x", "fs_noopt_x"]
SubMixture = Literal["flan2021", "t0", "niv2", "cot", "cot_ii", "dialog", "dialog_ii"]
NIV2 = "tfds_natural_instructions"
_NIV2_GROUP = "natinst_v2"
T0_PREFIX = "t0_task_adaptation:"
X_SHOTS = 25
MIX_SHOTS = 5
_NIV2_SHOTS = 2
# Of the Natural Instructions those that MMLU was made into.
_MMLU_TASKS = (*range(664, 668), *range(685, 738))
_STYLES: Mapping[str, TemplateStyle] = {
    "zs_opt": "zs_opt",
    "zs_noopt": "zs_noopt",
    "fs_opt_mix": "fs_opt",
    "fs_opt_x": "fs_opt",
    "fs_noopt_x": "fs_noopt",
}
# Where a family's patterns stand in :class:`Tables`, but for Natural Instructions' inline ones.
_TABLES: Mapping[str, str] = {
    "zs_opt": "zero_shot",
    "zs_noopt": "zero_shot_noopt",
    "fs_opt_mix": "few_shot",
    "fs_opt_x": "few_shot",
    "fs_noopt_x": "few_shot_noopt",
}
# The key of a family's examples in `v2_num_cases.json`.
CASES: Mapping[str, str] = {
    "zs_opt": "zero_shot",
    "zs_noopt": "zero_shot",
    "fs_opt_mix": "five_shot",
    "fs_opt_x": "x_shot",
    "fs_noopt_x": "x_shot",
}


@dataclass(frozen=True, kw_only=True)
class T0Task:
    """A row of T0's task table."""

    task_type: str
    in_flan: bool
    splits: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What the authors' files say.

    Attributes:
      zero_shot, zero_shot_noopt, inline: templates by group.
      few_shot, few_shot_noopt: few-shot patterns by group.
      formats: styles of options and dialogues.
      num_cases: task -> {"zero_shot", "x_shot", "five_shot"} -> examples.
      t0: all T0 tasks.
      categories: kind of task by task; empty without `flan_collection_info.csv`.
    """

    zero_shot: Templates
    zero_shot_noopt: Templates
    inline: Templates
    few_shot: FewShotPatterns
    few_shot_noopt: FewShotPatterns
    formats: Formats
    num_cases: Mapping[str, Mapping[str, int]] = field(repr=False)
    t0: Mapping[str, T0Task] = field(repr=False)
    categories: Mapping[str, str] = field(default_factory=dict, repr=False)

    @staticmethod
    def load(folder: str | Path, *, compat: bool = False) -> Tables:
        """Reads the `v2_*.json` files of a folder, and `flan_collection_info.csv` if it is there.

        Raises:
          ValueError: naming file and key of what is missing or wrong.
        """
        folder = Path(folder)
        zero_shot = patterns.load_templates(folder / "v2_zero_shot_patterns.json")
        branched = patterns.load_templates(folder / "v2_flan2021_branched_patterns.json")
        few_shot = patterns.load_few_shot(folder / "v2_few_shot_patterns.json")
        information = folder / "flan_collection_info.csv"
        return Tables(
            zero_shot=zero_shot,
            zero_shot_noopt=patterns.without_options(zero_shot, branched),
            inline=patterns.load_templates(folder / "v2_inline_fs_patterns.json"),
            few_shot=few_shot,
            few_shot_noopt=patterns.few_shot_without_options(few_shot),
            formats=load_formats(folder / "v2_option_dialog_formats.json", compat=compat),
            num_cases=load_num_cases(folder / "v2_num_cases.json"),
            t0=load_t0_tasks(folder / "v2_t0_tasks.json"),
            categories=load_categories(information) if information.is_file() else {},
        )


def load_num_cases(path: str | Path) -> dict[str, dict[str, int]]:
    """Reads the authors' examples per task and kind of prompt, for 2,048 and 512 tokens.

    Raises:
      ValueError: naming file and task.
    """
    data = _mapping(path)
    for task, counts in data.items():
        kinds = set(CASES.values())
        valid = isinstance(counts, Mapping) and set(counts) == kinds
        if not valid or not all(type(n) is int and n >= 0 for n in counts.values()):
            raise ValueError(f"{path}: {task!r} must give a count to each of {sorted(kinds)}.")
    return data


def load_t0_tasks(path: str | Path) -> dict[str, T0Task]:
    """Reads T0's task table.

    Raises:
      ValueError: naming file and task.
    """
    tasks = {}
    for name, row in _mapping(path).items():
        try:
            tasks[name] = T0Task(**row)
        except TypeError as error:
            raise ValueError(f"{path}: task {name!r}: {error}.") from error
        if type(tasks[name].in_flan) is not bool or not isinstance(tasks[name].task_type, str):
            raise ValueError(f"{path}: task {name!r} needs a bool `in_flan` and a `task_type`.")
    return tasks


def load_categories(path: str | Path) -> dict[str, str]:
    """Reads the collection's list: the generic category of each task, or prompt of T0.

    Raises:
      ValueError: naming the file and the column it lacks.
    """
    categories: dict[str, str] = {}
    found, rows = read_table(path)
    columns = ("Dataset", "Specific Task Category", "Generic Task Category")
    if missing := sorted(set(columns) - set(found)):
        raise ValueError(f"{path}: there is no column {missing[0]!r}.")
    for _, row in rows:
        # T0 and Natural Instructions name the task where the others name a finer category.
        for name in (row[columns[1]], row[columns[0]]):
            categories.setdefault(name, row[columns[2]])
    return categories


def category(tables: Tables, task: str) -> str:
    """A task's category, or "" if the list has none; input inversion is one of its own."""
    bare = task.removeprefix(T0_PREFIX)
    if "_input_inversion" in bare:
        return "Input Inversion"
    return tables.categories.get(bare) or tables.categories.get(flan2021.pattern_group(bare), "")


def t0_tasks(table: Mapping[str, T0Task]) -> dict[str, T0Task]:
    """The T0 tasks of the mixture: neither those that Flan 2021 has, nor T0's copies with negative
    examples."""
    return {
        name: task
        for name, task in table.items()
        if not task.in_flan and not task.task_type.endswith("_score_eval")
    }


def keep_niv2(task: str) -> bool:
    """Whether a Natural Instructions task (`task123_…`) is trained on: not those from MMLU.

    >>> keep_niv2("task685_mmmlu_answer_generation_clinical_knowledge")
    False
    """
    number = task.partition("_")[0].removeprefix("task")
    if not number.isdigit():
        raise ValueError(f"{task!r} is not the name of a Natural Instructions task (task123_…).")
    return int(number) not in _MMLU_TASKS


def pattern_group(task: str, t0: Mapping[str, T0Task] | None = None) -> str:
    """The group of patterns that a task of the collection is rendered with."""
    if t0 and (known := t0.get(task.removeprefix(T0_PREFIX))):
        return known.task_type
    if task == NIV2 or (task.startswith("task") and task[4:].partition("_")[0].isdigit()):
        return _NIV2_GROUP
    return flan2021.pattern_group(task)


def prompting(
    tables: Tables, task: str, family: Family, *, compat: bool = False, seed: int = 0
) -> tuple[Mode, Layout | None]:
    """How a task's rows are rendered in a family.

    Returns:
      the mode of its corpus, and the layout for `few_shot.render`; None = `render_zero_shot`.

    Raises:
      ValueError: if the patterns have no group for the task.
    """
    name = pattern_group(task, tables.t0)
    inline = name == _NIV2_GROUP and family == "fs_opt_mix"
    group = getattr(tables, "inline" if inline else _TABLES[family]).get(name)
    if group is None:
        raise ValueError(
            f"The patterns have no group {name!r}, which {task!r} needs for the family {family!r}."
        )
    layout = None
    if name == _NIV2_GROUP:
        mode, layout = _natural_instructions(group, family, compat)
    elif family in ("zs_opt", "zs_noopt"):
        mode = Mode(templates=group, formats=tables.formats if family == "zs_opt" else None)
    elif family == "fs_opt_mix":
        mode, layout = _mix(group, compat)
    else:
        mode, layout = _x_shot(group, compat)
    inverted = "_input_inversion" in task
    mode = replace(mode, style=_STYLES[family], compat=compat, seed=seed, inverted=inverted)
    return mode, layout


def numbered_shots(pattern: FewShotPattern, shots: int) -> tuple[Mode, Layout]:
    """`template_{i}_{n}_shot`: one pattern for query and exemplars. In no mixture; (i, n) are
    (0, 5), (1, 2) and (2, 1)."""
    template = Template(
        patterns.compile_pattern(pattern.inputs, pattern.where),
        patterns.compile_pattern(pattern.targets, pattern.where),
    )
    layout = Layout(
        inputs_prefix=pattern.inputs_prefix,
        x_y_delimiter=pattern.x_y_delimiter,
        targets_prefix=pattern.targets_prefix,
        separators=(pattern.example_separator,),
        wrappers=(pattern.wrapper(),),
    )
    return Mode(templates=(template,), style="fs_opt", shots=shots), layout


def sequence_lengths(*, compat: bool = False) -> dict[str, int]:
    """Tokens of inputs and targets; the 2,056 of the authors' script look like a typing mistake."""
    return {"inputs": 2056 if compat else 2048, "targets": 512}


def _mix(group: tuple[FewShotPattern, ...], compat: bool) -> tuple[Mode, Layout]:
    templates = tuple(pattern.combined() for pattern in group if pattern.in_template_mix)
    if not templates:
        raise ValueError(f"{group[0].where}: no pattern of the group is in the template mix.")
    layout = Layout(
        separators=MIX_SEPARATORS,
        draw_by="task" if compat else "example",
        wrappers=(group[min(1, len(group) - 1)].wrapper(),),
        count_separators=not compat,
        drop_bare=compat,
    )
    return Mode(templates=templates, shots=MIX_SHOTS, own_templates=True), layout


def _x_shot(group: tuple[FewShotPattern, ...], compat: bool) -> tuple[Mode, Layout]:
    separators = [pattern.example_separator for pattern in group]
    if compat:
        # Theirs is part of the targets, of which only white space is stripped again.
        marked = [bool(separator.strip(WHITESPACE)) for separator in separators]
        group = tuple(_separated(p) if mark else p for p, mark in zip(group, marked))
        separators = ["" if mark else text for text, mark in zip(separators, marked)]
    layout = Layout(separators=tuple(separators), strip_targets=True, drop_bare=compat)
    templates = tuple(pattern.combined() for pattern in group)
    return Mode(templates=templates, shots=X_SHOTS, thinned=True), layout


def _separated(pattern: FewShotPattern) -> FewShotPattern:
    """The pattern with its separator at the end of the targets."""
    return replace(pattern, targets=pattern.targets + pattern.example_separator)


def _natural_instructions(
    group: tuple[Any, ...], family: Family, compat: bool
) -> tuple[Mode, Layout | None]:
    if family in ("zs_opt", "fs_opt_mix"):
        return Mode(templates=group), None
    if family != "fs_opt_x":
        raise ValueError(f"Natural Instructions have no options, so no family {family!r}.")
    templates = tuple(pattern.combined() for pattern in group)
    layout = Layout(
        separators=tuple(pattern.example_separator for pattern in group),
        wrappers=tuple(pattern.wrapper() for pattern in group),
        strip_targets=True,
        max_tokens=None if compat else MAX_TOKENS_V2,
    )
    if compat:
        templates = tuple(_separated(pattern).combined() for pattern in group)
        layout = replace(layout, separators=("",), strip_targets=False)
    return Mode(templates=templates, shots=_NIV2_SHOTS), layout


def _mapping(path: str | Path) -> dict[str, Any]:
    data = read_object(path)
    if not data:
        raise ValueError(f"{path}: expected an object that is not empty.")
    return data
