"""FLAN 2021 (Wei et al. 2022, arXiv:2109.01652): clusters, hold-outs, split rules.

    clusters = load_clusters("v1_task_clusters.json")       # 17 clusters, 69 tasks
    split = inter_cluster_split(clusters, "entailment")     # train without it and its relatives
    splits = intra_cluster_splits(clusters)                 # 10, each one task of each cluster

Templates are `patterns.load_templates("v1_flan2021_patterns.json")[pattern_group(task)]`, prompts
`few_shot.MARKED` or plain, rates examples-proportional with a cap of 3,000 (`EXAMPLES_CAP`).
Source: `task_splits.py`, `tasks.py` and `mixtures.py` of FLAN v1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ul2tune.instructions.reading import read_json, read_object

EXAMPLES_CAP = 3000
NUM_INTRA_SPLITS = 10
# Held out together: training on the one would give the other away.
RELATED = (
    ("reading_comprehension", "read_comp_and_common_sense"),
    ("common_sense", "read_comp_and_common_sense"),
    ("paraphrase", "entailment"),
)
# Tasks of one format and instruction, which an intra-cluster split keeps on one side.
COLLAPSIBLE: Mapping[str, tuple[str, ...]] = {
    "opinion_abstracts": ("opinion_abstracts_rotten_tomatoes", "opinion_abstracts_idebate"),
    "squad": ("squad_v1", "squad_v2"),
    "ai2_arc_with_ir": ("ai2_arc_with_ir_challenge", "ai2_arc_with_ir_easy"),
    "arc": ("arc_challenge", "arc_easy"),
    "anli": ("anli_r1", "anli_r2", "anli_r3"),
    "mnli": ("mnli_matched", "mnli_mismatched"),
}
_SHARED_PATTERNS: Mapping[str, str] = {
    task: group for group in ("arc", "anli", "mnli") for task in COLLAPSIBLE[group]
}
# Flan 2022 lifts the limit of training rows, except where files are cut to size.
_KEPT_RULES = (
    "true_case",
    "fix_punct",
    "word_segment",
    "para_crawl_enes",
    "opinion_abstracts_idebate",
    "opinion_abstracts_rotten_tomatoes",
)

Clusters = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Tasks to train on and to evaluate, each sorted; no task is in both.

    Attributes:
      name: as the authors call it, without their suffixes for templates and shots.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def load_clusters(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Reads clusters in the file's order, which intra-cluster splits depend on.

    Raises:
      ValueError: naming file and cluster.
    """
    data = read_object(path)
    if not data:
        raise ValueError(f"{path}: expected an object of clusters.")
    for cluster, tasks in data.items():
        if not isinstance(tasks, list) or not tasks or not all(isinstance(t, str) for t in tasks):
            raise ValueError(f"{path}: cluster {cluster!r} must be a list of task names.")
    return {cluster: tuple(tasks) for cluster, tasks in data.items()}


def pattern_group(task: str) -> str:
    """The group of patterns a task shares, else its own name."""
    for group in ("para_crawl", "wmt16_translate"):
        if group in task:
            return group
    return _SHARED_PATTERNS.get(task, task)


def inter_cluster_split(clusters: Clusters, held_out: str) -> Split:
    """Holds out a cluster; related clusters are in neither side.

    Raises:
      ValueError: if there is no such cluster.
    """
    if held_out not in clusters:
        raise ValueError(f"There is no cluster {held_out!r}; clusters are {list(clusters)}.")
    dropped = {held_out} | {
        other for pair in RELATED if held_out in pair for other in pair if other != held_out
    }
    test = set(clusters[held_out])
    train = {task for name, tasks in clusters.items() if name not in dropped for task in tasks}
    index = list(clusters).index(held_out)
    return _split(f"flan_inter_cluster_split_{index}", train - test, test)


def intra_cluster_splits(clusters: Clusters, number: int = NUM_INTRA_SPLITS) -> tuple[Split, ...]:
    """Splits that hold out one task, or one group of `COLLAPSIBLE` tasks, of every cluster with
    more than one, by the authors' permutations."""
    collapsed = {name: _collapse(tasks) for name, tasks in clusters.items()}
    # DIVERGES from our own generators: NumPy's legacy one, seeded by the cluster's number, is what
    # makes the splits those of the paper.
    orders = [
        np.random.RandomState(i).permutation(len(t)) for i, t in enumerate(collapsed.values())
    ]
    splits = []
    for index in range(number):
        test: set[str] = set()
        train: set[str] = set()
        for units, order in zip(collapsed.values(), orders):
            held = units[order[index % len(units)]] if len(units) > 1 else None
            for unit in units:
                (test if unit == held else train).update(COLLAPSIBLE.get(unit, (unit,)))
        splits.append(_split(f"flan_intra_cluster_split_{index}", train - test, test))
    return tuple(splits)


def split_rules(task: str, *, capped: bool = True) -> dict[str, str]:
    """Which rows of the official files are a task's splits: split -> "file[start:stop]".

    Args:
      task: a task's name; one that is not listed has its official splits.
      capped: the limit of 30,000 training rows (FLAN 2021); False lifts it as Flan 2022 does, where
        the rates do the limiting.
    """
    rules = _RULES.get(task)
    if rules is None:
        return {split: split for split in ("train", "validation", "test")}
    if capped or task in _KEPT_RULES or "train" not in rules:
        return dict(rules)
    reserve = ""
    if "-" in rules["validation"]:
        reserve = rules["validation"].partition("-")[2].rstrip(":]")
    lifted = dict(rules)
    if "[" in rules["train"]:
        lifted["train"] = rules["train"].partition("[")[0] + (f"[:-{reserve}]" if reserve else "")
    for split in ("validation", "test"):
        lifted[split] = rules[split] if reserve else rules[split].partition("[")[0]
    return lifted


def _split(name: str, train: set[str], test: set[str]) -> Split:
    if not train or not test:
        raise ValueError(f"Split {name!r} leaves no task to {'train on' if test else 'test'}.")
    return Split(name=name, train=tuple(sorted(train)), test=tuple(sorted(test)))


def _collapse(tasks: Sequence[str]) -> tuple[str, ...]:
    """Single tasks in order, then the names of the groups, sorted."""
    groups = {task: group for group, members in COLLAPSIBLE.items() for task in members}
    single = [task for task in tasks if task not in groups]
    return (*single, *sorted({groups[task] for task in tasks if task in groups}))


_RULES: Mapping[str, Mapping[str, str]] = {
    task: entry["splits"]
    for entry in read_json(Path(__file__).with_name("flan2021_splits.json"))
    for task in entry["tasks"]
}
