"""What noise a run will surely meet, before its data is there."""

from __future__ import annotations

import pytest
import seqio

from ul2tune.data.rates import Fixed, Group, Leaf
from ul2tune.data.ul2 import preset
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.prepare.mixtures import register_mixture
from ul2tune.prepare.noises import noises
from ul2tune.prepare.tasks import register_text_task

VOCABULARY = ByteVocabulary()


def text_task(name: str, objective: str | None = "ul2") -> str:
    register_text_task(name, f"{name}.txt", vocabulary=VOCABULARY, objective=objective)
    return name


def names(mixture: str) -> list[str]:
    return [task for task, _, _ in noises(mixture, ())]


def test_a_task_and_its_noise(name):
    ((task, online, info),) = noises(text_task(name), ())
    assert task == name
    assert online == {"kind": "ul2", "feature": "targets", "config": preset("ul2").to_json()}
    assert info == VOCABULARY.info
    with pytest.raises(ValueError, match="No task or mixture 'absent' is registered"):
        names("absent")


def test_examples_without_noise_are_left_out(name):
    assert names(text_task(name, objective=None)) == []


def test_only_what_is_drawn_whatever_sizes_will_be(name):
    a, b, c, d, e = (text_task(f"{name}_{letter}") for letter in "abcde")
    by_size = Group(name="by_size", children=(Leaf(name=a), Leaf(name=b)))
    inner = Group(
        name="inner",
        children=(Leaf(name=e), by_size),
        policy=Fixed(weights={e: 1.0, "by_size": 1.0}),
    )
    policy = Fixed(weights={"inner": 0.9, c: 0.1, d: 0.0})
    register_mixture(Group(name=name, children=(inner, Leaf(name=c), Leaf(name=d)), policy=policy))
    assert names(name) == [e, c]
    rates_of = [(name, 2), (a, 0), (b, lambda task: 1.0), (d, 0.5)]
    seqio.MixtureRegistry.add(f"{name}_numbers", rates_of)
    assert names(f"{name}_numbers") == [e, c, d]
