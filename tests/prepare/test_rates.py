"""Effective rates of nested mixtures, function rates, and sizes."""

import functools
import json

import pytest
import seqio

from tests.prepare.reading import effective_rates
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.prepare import rates as prepare_rates
from ul2tune.prepare.seqio_vocab import SeqioVocabulary


@pytest.fixture
def tasks(name):
    feature = seqio.Feature(SeqioVocabulary(ByteVocabulary()))
    names = [f"{name}_{letter}" for letter in "abc"]
    for task in names:
        source = seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"])
        seqio.TaskRegistry.add(task, source, output_features={"targets": feature})
    return names


def rates(name, sizes=None):
    return list(effective_rates(name, sizes or {}).values())


def test_a_task_is_a_mixture_of_itself(tasks):
    assert effective_rates(tasks[0], {}) == {tasks[0]: 1.0}


def test_numbers_functions_and_defaults(tasks, name):
    a, b, c = tasks
    seqio.MixtureRegistry.add(name, [(a, 1), (b, lambda task: 2.0), c], default_rate=5.0)
    assert effective_rates(name, {}) == {a: 0.125, b: 0.25, c: 0.625}


def test_nested_mixtures_share_their_rate_and_add_up(tasks, name):
    a, b, c = tasks
    seqio.MixtureRegistry.add(f"{name}_inner", [(a, 30.0), (b, 10.0)])
    seqio.MixtureRegistry.add(name, [(f"{name}_inner", 1.0), (b, 0.5), (c, 0.5)])
    assert effective_rates(name, {}) == {a: 0.375, b: 0.375, c: 0.25}


def test_a_task_of_rate_zero_is_left_out(tasks, name):
    a, b, _ = tasks
    seqio.MixtureRegistry.add(name, [(a, 1.0), (b, 0.0)])
    assert effective_rates(name, {}) == {a: 1.0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.2, 0.7]),
        ({"maximum": 200}, [0.2, 0.4, 0.4]),
        ({"temperature": 2.0}, [10 / 50.6, 14.142 / 50.6, 26.457 / 50.6]),
    ],
)
def test_rates_by_prepared_size(tasks, name, options, expected):
    rate = functools.partial(seqio.mixing_rate_num_examples, **options)
    seqio.MixtureRegistry.add(name, tasks, default_rate=rate)
    sizes = dict(zip(tasks, (100, 200, 700), strict=True))
    before = list(seqio.get_global_cache_dirs())
    assert rates(name, sizes) == pytest.approx(expected, rel=1e-3)
    # Nothing of it stays: the next preparation may have other sizes.
    assert list(seqio.get_global_cache_dirs()) == before
    assert rates(name, dict.fromkeys(tasks, 5)) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [([-1.0, 2.0], "rate -1.0"), ([float("inf"), 1.0], "rate inf"), ([0.0, 0.0], "are zero")],
)
def test_impossible_rates(tasks, name, values, message):
    seqio.MixtureRegistry.add(name, list(zip(tasks, values)))
    with pytest.raises(ValueError, match=message):
        effective_rates(name, {})


def test_folders_of_sizes_are_made_only_for_rates_that_ask(tasks, name, monkeypatch):
    a, b, c = tasks
    seqio.MixtureRegistry.add(f"{name}_sized", [(a, seqio.mixing_rate_num_examples), (b, 1.0)])
    seqio.MixtureRegistry.add(f"{name}_fixed", [(a, 1), (b, 2.0)])
    for kind in ("sized", "fixed"):
        seqio.MixtureRegistry.add(f"{name}_outer_{kind}", [(f"{name}_{kind}", 1.0), (c, 1.0)])
    made, make = [], prepare_rates._as_seqio_caches
    monkeypatch.setattr(
        prepare_rates, "_as_seqio_caches", lambda *args: made.append(1) or make(*args)
    )
    sizes = {a: 3, b: 5, c: 7}
    assert rates(f"{name}_outer_fixed", sizes) == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    assert not made
    assert rates(f"{name}_outer_sized", sizes) == pytest.approx([3 / 8, 1 / 8, 1 / 2])
    assert made == [1]


def test_prepared_sizes_count_though_seqio_has_looked_into_a_cache_of_its_own(
    tasks, name, tmp_path
):
    a, b, _ = tasks
    for task in (a, b):
        cache = tmp_path / task
        cache.mkdir()
        (cache / "stats.train.json").write_text(json.dumps({"examples": 50}))
        (cache / "COMPLETED").touch()
    seqio.set_global_cache_dirs([str(tmp_path)])
    try:
        assert seqio.get_mixture_or_task(a).cache_dir == str(tmp_path / a)
        seqio.MixtureRegistry.add(name, [a, b], default_rate=seqio.mixing_rate_num_examples)
        assert effective_rates(name, {a: 10, b: 30}) == {a: 0.25, b: 0.75}
        assert seqio.get_mixture_or_task(a).cache_dir == str(tmp_path / a)
    finally:
        seqio.set_global_cache_dirs([])
