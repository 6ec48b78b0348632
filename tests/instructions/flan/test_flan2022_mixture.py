"""The mixture of Flan 2022: its shares, caps and what is drawn from it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.instructions import tiny_flan
from ul2tune.data import mixing, rates, rng
from ul2tune.instructions.flan import flan2022_mixture
from ul2tune.instructions.flan.flan2022 import Family, SubMixture, Tables
from ul2tune.instructions.flan.flan2022_mixture import CAPS, Member


@pytest.fixture
def tables(tmp_path) -> Tables:
    return Tables.load(tiny_flan.write_tables(tmp_path))


@pytest.fixture(scope="module")
def authors(shared) -> Tables:
    return Tables.load(shared / "data" / "flan")


def shares(tree) -> dict[str, float]:
    found = {}

    def walk(share, path):
        found["/".join(path)] = share.rate
        for child in share.children:
            walk(child, [*path, child.name])

    walk(rates.resolve(tree), [])
    return found


def test_shares_of_the_tiny_flan(tables):
    found = shares(flan2022_mixture.mixture(tables))
    expected = {
        "flan2021": 0.4,
        "t0": 0.32,
        "niv2": 0.2,
        "cot": 0.05,
        "dialog": 0.03,
        "flan2021/fs_noopt": 0.1,
        "t0/zs_opt": 0.08,
        "niv2/fs_opt": 0.1,
        "cot/zs_opt": 0.025,
        "cot/zs_opt/zs_opt_plain": 0.025 / 1.3,
        "dialog/fs_opt/fs_opt_ii": 0.015 * 0.3 / 1.3,
        "niv2/fs_opt/flan2022_tfds_natural_instructions_fs_opt_x": 0.05,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_what_is_absent_gives_its_share_to_the_rest(tables):
    def only(member: Member, examples: int):
        kept = member.task in ("rte", "cot_gsm8k")
        return flan2022_mixture.default_node(member, examples) if kept else None

    found = shares(flan2022_mixture.mixture(tables, only))
    assert found["flan2021"] == pytest.approx(0.4 / 0.45)
    assert found["cot/zs_opt/zs_opt_plain"] == pytest.approx(0.05 / 0.45 / 2)
    with pytest.raises(ValueError, match="no task of Flan 2022 is there"):
        flan2022_mixture.mixture(tables, lambda member, examples: None)


def test_the_authors_members(authors):
    members = flan2022_mixture.members(authors)
    assert {sub: len(tasks) for sub, tasks in members.items()} == {
        "flan2021": 71,
        "t0": 193,
        "niv2": 1,
        "cot": 9,
        "cot_ii": 9,
        "dialog": 2,
        "dialog_ii": 2,
    }
    assert sorted(task for tasks in members.values() for task in tasks) == sorted(authors.num_cases)


def test_rates_are_examples_proportional_with_caps(authors):
    flat = rates.flat(rates.resolve(flan2022_mixture.mixture(authors)))
    assert len(flat) == 71 * 5 + 193 * 5 + 3 + 18 * 3 + 4 * 3
    assert math.fsum(flat.values()) == pytest.approx(1)
    members = flan2022_mixture.members(authors)
    for sub, family, kind in PROPORTIONAL:
        total = sum(min(CAPS[sub], authors.num_cases[t][kind]) for t in members[sub])
        for task in members[sub]:
            name = flan2022_mixture.leaf_name(Member(sub_mixture=sub, task=task, family=family))
            weight = min(CAPS[sub], authors.num_cases[task][kind])
            assert flat[name] == pytest.approx(flan2022_mixture.RATES[sub] / 4 * weight / total)


PROPORTIONAL: tuple[tuple[SubMixture, Family, str], ...] = (
    ("flan2021", "zs_noopt", "zero_shot"),
    ("t0", "fs_noopt_x", "x_shot"),
)


def test_drawn_tasks_match_the_rates_within_three_sigma(authors):
    share = rates.resolve(flan2022_mixture.mixture(authors))
    flat = rates.flat(share)
    names, weights = list(flat), np.array(list(flat.values()))
    draws = 1_000_000
    drawn = mixing.draw_tasks(rng.fold_in(0, np.arange(draws)), list(flat.values()))
    counts = np.bincount(drawn, minlength=len(names))
    deviations = (counts - draws * weights) / np.sqrt(draws * weights * (1 - weights))
    # All 1,389 tasks together: chi-square has this mean, and a sigma of sqrt(2 / degrees).
    degrees = len(names) - 1
    chi_square = np.sum((counts - draws * weights) ** 2 / (draws * weights)) / degrees
    assert abs(chi_square - 1) < 3 * math.sqrt(2 / degrees)
    assert np.mean(np.abs(deviations) > 3) < 0.0065  # 0.27 % are expected beyond 3 sigma
    # The five sub-mixtures and their 14 families, each.
    for leaves, rate in _leaves(share).values():
        count = sum(counts[names.index(leaf)] for leaf in leaves)
        assert abs(count - draws * rate) <= 3 * math.sqrt(draws * rate * (1 - rate))


def _leaves(root):
    """The five sub-mixtures and their families: names of leaves, and share."""
    found = {}
    for sub in root.children:
        for share in (sub, *sub.children):
            leaves = [leaf.name for leaf in rates.share_leaves(share)]
            found[f"{sub.name}/{share.name}"] = (leaves, share.rate)
    return found
