"""Trees as nested SeqIO mixtures: SeqIO, prepare and the engine agree on every rate."""

import functools

import pytest
import seqio

from tests.prepare import reading
from ul2tune.data import rates
from ul2tune.data.documents import split_of
from ul2tune.data.rates import Equal, Fixed, Group, Leaf, Proportional
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.prepare.mixtures import register_mixture
from ul2tune.prepare.rates import mixture_share
from ul2tune.prepare.seqio_vocab import SeqioVocabulary
from ul2tune.prepare.tasks import register_text_task

SIZES = {"a": 100, "b": 2000, "c": 70_000, "d": 0, "e": 5}


@pytest.fixture
def leaf(name):
    """Letter -> a leaf whose task has as many examples as `SIZES` says."""
    feature = seqio.Feature(SeqioVocabulary(ByteVocabulary()))
    for letter, size in SIZES.items():
        source = seqio.FunctionDataSource(
            lambda split, shuffle_files: None,
            splits=["train"],
            num_input_examples={"train": size},
        )
        seqio.TaskRegistry.add(f"{name}_{letter}", source, output_features={"targets": feature})
    return lambda letter, **options: Leaf(name=f"{name}_{letter}", **options)


def tree_of(leaf, name):
    inner = Group(
        name="inner",
        children=(leaf("a"), leaf("b"), leaf("c", examples=9000), leaf("d")),
        policy=Proportional(cap=3000, temperature=2.0),
        size="weights",
    )
    other = Group(name="other", children=(leaf("c"), leaf("e")), policy=Equal())
    pair = Group(name="pair", children=(inner, other))
    return Group(
        name=name,
        children=(pair, leaf("a")),
        policy=Fixed(weights={"pair": 0.9, leaf("a").name: 0.1}),
    )


def test_seqio_prepare_and_the_engine_agree(leaf, name):
    tree = tree_of(leaf, name)
    mixture = register_mixture(tree)
    counts = {f"{name}_{letter}": size for letter, size in SIZES.items()}
    expected = rates.flat(rates.resolve(tree, counts))
    assert reading.effective_rates(name, counts) == pytest.approx(expected)
    total = sum(mixture.get_rate(task) for task in mixture.tasks)
    by_seqio = {task.name: mixture.get_rate(task) / total for task in mixture.tasks}
    assert {n: rate for n, rate in by_seqio.items() if rate} == pytest.approx(expected)


def test_prepared_sizes_replace_those_of_the_source(leaf, name):
    register_mixture(Group(name=name, children=(leaf("a"), leaf("b"))))
    found = reading.effective_rates(name, {f"{name}_a": 30, f"{name}_b": 10})
    assert list(found.values()) == [0.75, 0.25]
    found = reading.effective_rates(name, {f"{name}_a": 10, f"{name}_b": 30})
    assert list(found.values()) == [0.25, 0.75]


def test_as_seqios_own_rate_function(leaf, name):
    names = [leaf(letter).name for letter in "abc"]
    options = {"maximum": 1500, "temperature": 3.0, "scale": 1.5}
    rate = functools.partial(seqio.mixing_rate_num_examples, **options)
    seqio.MixtureRegistry.add(f"{name}_theirs", names, default_rate=rate)
    policy = Proportional(cap=1500, temperature=3.0, scale=1.5)
    children = tuple(leaf(letter) for letter in "abc")
    register_mixture(Group(name=f"{name}_ours", children=children, policy=policy))
    counts = {f"{name}_{letter}": size for letter, size in SIZES.items()}
    ours, theirs = (
        reading.effective_rates(f"{name}_{side}", counts) for side in ("ours", "theirs")
    )
    assert ours == theirs


def test_the_share_of_the_manifest_is_the_tree(leaf, name):
    register_mixture(tree_of(leaf, name))
    counts = {f"{name}_{letter}": size for letter, size in SIZES.items()}
    share = mixture_share(name, counts)
    assert share.policy == "fixed"
    pair = share.children[0]
    assert (pair.name, pair.rate) == (f"{name}.pair", 0.9)
    assert [child.policy for child in pair.children] == [
        "proportional, cap=3000, temperature=2",
        "equal",
    ]
    assert pair.examples == 100 + 2000 + 70_000 + 0 + 5


def test_a_leaf_may_be_a_mixture(leaf, name):
    seqio.MixtureRegistry.add(f"{name}_flat", [leaf("a").name, leaf("b").name], default_rate=1.0)
    tree = Group(name=name, children=(Leaf(name=f"{name}_flat"), leaf("c", examples=2100)))
    register_mixture(tree)
    counts = {f"{name}_{letter}": size for letter, size in SIZES.items()}
    assert reading.effective_rates(name, counts) == {
        f"{name}_a": 0.25,
        f"{name}_b": 0.25,
        f"{name}_c": 0.5,
    }


def test_errors(leaf, name):
    with pytest.raises(ValueError, match=r"'nobody' of mixture .* is no registered task"):
        register_mixture(Group(name=name, children=(Leaf(name="nobody"),)))
    register_mixture(Group(name=name, children=(leaf("d"),)))
    with pytest.raises(ValueError, match="already"):
        register_mixture(Group(name=name, children=(leaf("a"),)))
    with pytest.raises(ValueError, match="nothing to draw from"):
        reading.effective_rates(name, {f"{name}_d": 0})


@pytest.mark.parametrize("rate", [1.0, 0.0])
def test_rates_that_come_to_nothing_are_told(task, name, tmp_path, capfd, rate):
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n')
    held_out = 0.9999
    assert split_of("a", held_out) == "validation"
    register_text_task(
        f"{name}_empty",
        str(tmp_path / "one.jsonl"),
        format="jsonl",
        vocabulary=ByteVocabulary(),
        validation_fraction=held_out,
    )
    seqio.MixtureRegistry.add(f"{name}_both", [(name, 3.0), (f"{name}_empty", rate)])
    reading.run(f"{name}_both", tmp_path / "data")
    said = (
        f"Note on mixture {name}_both: 25.00% of its rates come to nothing, as there are no "
        f"examples in 'train' of {name}_empty (1 of 2 tasks)."
    )
    assert (said in capfd.readouterr().err) == bool(rate)
    reading.run(f"{name}_both", tmp_path / "data", splits=("validation",))
    assert "Note on mixture" not in capfd.readouterr().err
