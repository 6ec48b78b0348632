"""Registering FLAN 2021 and Flan 2022 over your files.

    folder/v1_flan2021_patterns.json, v1_task_clusters.json        FLAN's literals as JSON
    folder/v2_*.json                                               the same of Flan 2022
    folder/flan2021/<task>/<official split>.jsonl                  fields as the patterns name them
    folder/t0/<task>/train.jsonl                                   P3's columns
    folder/cot/<set>_train*.tsv                                    question, answer, rationale
    folder/dialog/wiki_dialog.jsonl, qrecc.jsonl                   "utterances", "context"
    natural-instructions/tasks/*.json                              a copy of its repository

Tasks whose rows are absent are left out with a note, and what is left of a group divides its share.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ul2tune.data.rates import Group, Leaf, Node, Proportional
from ul2tune.instructions import few_shot, patterns
from ul2tune.instructions.few_shot import Layout
from ul2tune.instructions.flan import flan2021, flan2022, flan2022_mixture
from ul2tune.instructions.flan.corpus import Mode, Rows, TemplatedCorpus
from ul2tune.instructions.flan.flan2021 import Split
from ul2tune.instructions.flan.flan2022 import Tables
from ul2tune.instructions.flan.flan2022_mixture import Member
from ul2tune.instructions.flan.rows import CotRows, DialogRows, JsonlRows, NIv2Rows, P3Rows
from ul2tune.instructions.patterns import Pattern
from ul2tune.instructions.records import Renderer
from ul2tune.instructions.tokenizer import Tokenizer
from ul2tune.prepare.mixtures import register_mixture
from ul2tune.prepare.record_tasks import register_record_task, tk_instruct_renderer
from ul2tune.prepare.tasks import VocabularyLike

FLAN2021_PATTERNS = "v1_flan2021_patterns.json"
FLAN2022_PATTERNS = "v2_zero_shot_patterns.json"


@dataclass(frozen=True, kw_only=True)
class Flan2022Options:
    """Choices that all Flan 2022 tasks share.

    Attributes:
      compat: the authors' quirks (`instructions.flan.flan2022`); they also mix the instances of all
        Natural Instructions as one task, without a cap that means anything.
      own_counts: rates from the examples that are prepared; default: from the authors' table.
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`.
      seed: of all draws.
    """

    compat: bool = False
    own_counts: bool = False
    vocabulary: VocabularyLike = "stdlib"
    seed: int = 0


def register_flan2022(
    folder: str | Path,
    *,
    name: str = "flan2022",
    natural_instructions: str | Path | None = None,
    options: Flan2022Options = Flan2022Options(),
) -> str:
    """Registers a task per Flan 2022 task and family, and the mixture of five sub-mixtures.

    Sub-mixtures are mixtures too: ``flan2022.cot``, ``flan2022.flan2021.zs_opt``.

    Args:
      folder: patterns and rows, as above.
      name: of the mixture, and prefix of the tasks' names.
      natural_instructions: folder that has ``tasks/`` in it; None = `folder/natural-instructions`.
      options: choices that all tasks share.

    Returns:
      The mixture's name.

    Raises:
      ValueError: if a table is missing or malformed, or no task has rows.
    """
    folder = Path(folder)
    tables = Tables.load(folder, compat=options.compat)
    instructions = Path(natural_instructions or folder / "natural-instructions")
    found: Counter[str] = Counter()

    def node(member: Member, examples: int) -> Node | None:
        counted = None if options.own_counts else examples
        if member.sub_mixture == "niv2":
            made = _natural_instructions(tables, member, instructions, name, options)
        else:
            made = _leaf(tables, member, _rows(folder, tables, member, options), name, options)
            made = made and Leaf(name=made.name, examples=counted)
        if made is not None:
            found[f"{member.sub_mixture} {member.task}"] += 1
        return made

    tree = flan2022_mixture.mixture(tables, node, name)
    tasks = flan2022_mixture.members(tables)
    if len(found) < sum(map(len, tasks.values())):
        present = Counter(key.partition(" ")[0] for key in found)
        shown = ", ".join(f"{sub} {present[sub]}/{len(tasks[sub])}" for sub in tasks)
        print(f"Note: Flan 2022 tasks with rows in {folder}: {shown}.", file=sys.stderr)
    return register_mixture(tree).name


def register_flan2021(
    folder: str | Path,
    *,
    name: str = "flan2021",
    shots: int = 0,
    marked: bool = False,
    compat: bool = False,
    vocabulary: VocabularyLike = "stdlib",
    seed: int = 0,
) -> str:
    """Registers the FLAN 2021 tasks with rows, their mixture with the cap of 3,000 examples, and a
    pair of mixtures per hold-out: ``flan2021_inter_<cluster>_train`` and ``…_eval``,
    ``flan2021_intra_<0…9>_train`` and ``…_eval``.

    Args:
      folder: patterns, clusters and rows, as above.
      name: of the mixture, and prefix of all other names.
      shots: exemplars per prompt (the authors: 1, 2, 3, 5, 10, 16).
      marked: the marks that the authors' model knew ("0 … X 1 FLAN"); default: plain text.
      compat: templates in turn, incomplete rounds dropped, exemplars in other templates than the
        query's and the query among them, separators not counted towards the prompt's length,
        training rows that overlap short validation splits.
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`.
      seed: of all draws.

    Returns:
      The mixture's name.

    Raises:
      ValueError: if patterns or clusters are missing or malformed, or no task has rows.
    """
    folder = Path(folder)
    templates = patterns.load_templates(folder / FLAN2021_PATTERNS)
    clusters = flan2021.load_clusters(folder / "v1_task_clusters.json")
    layout = few_shot.MARKED if marked else few_shot.CONTINUATION
    layout = replace(layout, count_separators=not compat)
    wrapper = few_shot.MARKED_ZERO_SHOT if marked else None
    names: dict[str, str] = {}
    trained: list[str] = []
    for cluster, tasks in clusters.items():
        for task in tasks:
            rules = flan2021.split_rules(task)
            rows = JsonlRows(folder=str(folder / "flan2021" / task), rules=rules, overlap=compat)
            group = flan2021.pattern_group(task)
            if task in names or not rows.splits:
                continue
            if group not in templates:
                raise ValueError(
                    f"{folder / FLAN2021_PATTERNS} has no group {group!r}, which {task!r} needs."
                )
            style = "fs_opt" if shots else "zs_opt"
            mode = Mode(
                templates=templates[group],
                style=style,
                shots=shots,
                own_templates=compat,
                compat=compat,
                seed=seed,
            )
            corpus = TemplatedCorpus(
                task=task, rows=rows, mode=mode, category=cluster, benchmark="flan2021"
            )
            names[task] = f"{name}_{task}"
            if "train" in rows.splits:
                trained.append(task)
            render = make_renderer(layout if shots else None, wrapper)
            register_record_task(names[task], corpus, render, vocabulary=vocabulary, seed=seed)
    if not trained:
        raise ValueError(
            f"No task of FLAN 2021 has training rows: {folder / 'flan2021'} should have "
            f"<task>/train.jsonl, such as rte/train.jsonl."
        )
    _register_flat(name, [names[task] for task in trained], flan2021.EXAMPLES_CAP)
    for label, split in _hold_outs(clusters):
        _register_hold_out(f"{name}_{label}", split, names, trained)
    return name


def make_renderer(
    layout: Layout | None, wrapper: Pattern | None = None
) -> Callable[[Tokenizer], Renderer]:
    """Tokenizer -> renderer: few-shot with a layout, else zero-shot, perhaps in a wrapper."""
    if layout is not None:
        return tk_instruct_renderer(few_shot.render, layout=layout)
    return functools.partial(_zero_shot, wrapper)


def _zero_shot(wrapper: Pattern | None, tokenizer: Tokenizer) -> Renderer:
    if wrapper is None:
        return few_shot.render_zero_shot
    return functools.partial(few_shot.render_zero_shot, wrapper=wrapper)


def _rows(folder: Path, tables: Tables, member: Member, options: Flan2022Options) -> Rows | None:
    """A task's rows, or None if it has none to train on."""
    task, sub = member.task, member.sub_mixture.removesuffix("_ii")
    if sub == "cot":
        data_set = task.partition("_")[2].removeprefix("input_inversion_")
        files = sorted((folder / "cot").glob(f"{data_set}_train*.tsv"))
        return CotRows(path=str(files[0])) if files else None
    if sub == "dialog":
        path = folder / "dialog" / f"{task.removesuffix('_input_inversion')}.jsonl"
        return DialogRows(path=str(path), seed=options.seed) if path.is_file() else None
    if sub == "t0":
        bare = task.removeprefix(flan2022.T0_PREFIX)
        kind = tables.t0[bare].task_type
        rows = P3Rows(folder=str(folder / "t0" / bare), task_type=kind, compat=options.compat)
        return rows if "train" in rows.splits else None
    rules = flan2021.split_rules(task, capped=False)
    path = str(folder / "flan2021" / task)
    rows = JsonlRows(folder=path, rules=rules, overlap=options.compat)
    return rows if "train" in rows.splits else None


def _leaf(
    tables: Tables, member: Member, rows: Rows | None, name: str, options: Flan2022Options
) -> Leaf | None:
    if rows is None:
        return None
    mode, layout = flan2022.prompting(
        tables, member.task, member.family, compat=options.compat, seed=options.seed
    )
    corpus = TemplatedCorpus(
        task=member.task.removeprefix(flan2022.T0_PREFIX),
        rows=rows,
        mode=mode,
        category=flan2022.category(tables, member.task) or member.sub_mixture,
        benchmark="flan2022",
    )
    leaf = flan2022_mixture.leaf_name(member, name)
    register_record_task(
        leaf, corpus, make_renderer(layout), vocabulary=options.vocabulary, seed=options.seed
    )
    return Leaf(name=leaf)


def _natural_instructions(
    tables: Tables, member: Member, folder: Path, name: str, options: Flan2022Options
) -> Group | None:
    """A task per file, without those MMLU was made into; each has the sub-mixture's cap."""
    leaves = []
    for path in sorted((folder / "tasks").glob("task*.json")):
        if not flan2022.keep_niv2(path.stem):
            continue
        one = Member(sub_mixture="niv2", task=path.stem, family=member.family)
        rows = NIv2Rows(path=str(path), compat=options.compat)
        if leaf := _leaf(tables, one, rows, name, options):
            leaves.append(leaf)
    cap = None if options.compat else flan2022_mixture.CAPS["niv2"]
    group = f"tasks_{member.family}"
    return (
        Group(name=group, children=tuple(leaves), policy=Proportional(cap=cap)) if leaves else None
    )


def _hold_outs(clusters: flan2021.Clusters) -> list[tuple[str, Split]]:
    inter = [(f"inter_{c}", flan2021.inter_cluster_split(clusters, c)) for c in clusters]
    intra = enumerate(flan2021.intra_cluster_splits(clusters))
    return [*inter, *((f"intra_{index}", split) for index, split in intra)]


def _register_hold_out(
    name: str, split: Split, names: dict[str, str], trained: Sequence[str]
) -> None:
    """Registers both sides; nothing where a side has no rows."""
    train = [names[task] for task in split.train if task in trained]
    test = [names[task] for task in split.test if task in names]
    if train and test:
        _register_flat(f"{name}_train", train, flan2021.EXAMPLES_CAP)
        _register_flat(f"{name}_eval", test, None)


def _register_flat(name: str, tasks: Sequence[str], cap: int | None) -> None:
    leaves = tuple(Leaf(name=task) for task in tasks)
    register_mixture(Group(name=name, children=leaves, policy=Proportional(cap=cap)))
