"""Exemplars: never the query, the same in every process, evenly drawn, cut to a budget."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.instructions.exemplars import choose, fitting, shuffled
from ul2tune.instructions.records import Demo

POOL = tuple(Demo(id=f"r{i}", input=f"question {i}", target=f"answer {i}") for i in range(12))


def draw(pool=POOL, k=3, query_id="q", query_input="?", seed=0, leaky=False):
    return choose(pool, k, query_id=query_id, query_input=query_input, seed=seed, leaky=leaky)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 30), st.integers(0, 11), st.integers(0, 2**63))
def test_the_query_and_repetitions_are_never_drawn(k, index, seed):
    pool = (*POOL, *POOL[:3], Demo(id="copy", input=f" question {index}\n", target="x"))
    query = POOL[index]
    demos = draw(pool, k, query.id, query.input, seed)
    assert len(demos) == min(k, 11)
    assert query.id not in {demo.id for demo in demos}
    assert query.input not in {demo.input.strip() for demo in demos}
    assert len({demo.input for demo in demos}) == len({demo.id for demo in demos}) == len(demos)


def test_the_draw_depends_on_seed_and_query_alone():
    assert draw() == draw()
    assert draw() != draw(seed=1)
    assert draw() != draw(query_id="other")
    assert draw(k=5)[:3] == draw(k=3)


def test_the_draw_is_the_same_in_another_process():
    code = (
        "from ul2tune.instructions.exemplars import *; from ul2tune.instructions.records import *;"
        "pool = [Demo(id=f'r{i}', input=f'question {i}', target='') for i in range(12)];"
        "print([d.id for d in choose(pool, 3, query_id='q', query_input='?', seed=0)])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str([demo.id for demo in draw()])


def test_every_member_is_drawn_equally_often():
    counts = Counter(demo.id for q in range(3000) for demo in draw(query_id=f"q{q}"))
    # Binomial(3000, 3/12): sigma 24.
    assert set(counts) == {demo.id for demo in POOL}
    assert all(abs(count - 750) < 4 * 24 for count in counts.values())


def test_orders_are_permutations():
    assert sorted(shuffled(50, 0, "a")) == list(range(50))
    assert list(shuffled(50, 0, "a")) != list(shuffled(50, 0, "b"))
    assert list(shuffled(0, 0)) == []


def test_the_authors_leak_can_be_reproduced():
    query = POOL[0]
    leaks = [query in draw(POOL, 5, query.id, query.input, seed, leaky=True) for seed in range(50)]
    assert any(leaks)


def test_demos_without_an_id_are_numbered():
    pool = [Demo(input="a", target="1"), Demo(input="b", target="2")]
    assert sorted(demo.id for demo in draw(pool, 2)) == ["demo-0", "demo-1"]


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="0 or more, got -1"):
        draw(k=-1)


def test_only_a_prefix_within_the_budget_is_kept():
    assert fitting([3, 4, 5], 12) == 3
    assert fitting([3, 4, 5], 11) == 2
    assert fitting([3, 9, 1], 11) == 1  # what follows the first that does not fit is dropped too
    assert fitting([3], -1) == 0
