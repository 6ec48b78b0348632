"""Three levels: assignment, leaks across names of one dataset, refusals, determinism."""

import random

import pytest

from ul2tune.instructions import levels
from ul2tune.instructions.levels import CatalogueTask, Choices
from ul2tune.instructions.records import SPLIT_LEVELS


def task(name, category, dataset="", cluster=""):
    return CatalogueTask(name=name, category=category, dataset=dataset, cluster=cluster)


CATALOGUE = (
    task("ps_copa", "cause", "COPA", "commonsense"),
    task("ni_copa_generation", "generation", "copa", "generation"),
    task("ni_ecare", "cause", "e-care", "commonsense"),
    task("flan_squad", "qa", "squad", "reading"),
    task("ps_squad", "qa", "SQuAD", "reading"),
    task("flan_boolq", "qa", "boolq", "reading"),
    task("mmlu", "qa", "mmlu", "knowledge"),
    task("summary", "generation", "", "generation"),
)
CHOICES = Choices(
    categories=frozenset({"cause"}),
    datasets=frozenset({"MMLU"}),
    supervised=frozenset({"squad"}),
)


def test_levels():
    found = levels.split(CATALOGUE, CHOICES)
    assert found.levels == {
        "flan_boolq": "train",
        "flan_squad": "supervised",
        "mmlu": "partial",
        "ni_ecare": "held_out",
        "ps_copa": "held_out",
        "ps_squad": "supervised",
        "summary": "train",
    }
    assert set(found.levels.values()) <= set(SPLIT_LEVELS)
    assert found.tasks("held_out") == ("ni_ecare", "ps_copa")
    assert found.training == ("flan_boolq", "flan_squad", "ps_squad", "summary")
    assert "'copa' is also in a held-out category" in found.excluded["ni_copa_generation"]
    assert not levels.leaks(CATALOGUE, found.levels)


def test_order_does_not_matter_and_choices_do():
    found = levels.split(CATALOGUE, CHOICES)
    shuffled = list(CATALOGUE)
    random.Random(1).shuffle(shuffled)
    assert levels.split(shuffled, CHOICES) == found
    other = levels.split(CATALOGUE, Choices(clusters=frozenset({"commonsense"})))
    assert other.levels["ps_copa"] == "held_out"
    assert other.hash != found.hash


def test_leaks_of_other_peoples_splits():
    every = dict.fromkeys((t.name for t in CATALOGUE), "train")
    found = levels.leaks(CATALOGUE, {**every, "ps_copa": "held_out", "ps_squad": "partial"})
    assert found == (
        "ps_copa is held_out, but ni_copa_generation trains on its dataset 'copa'.",
        "ps_copa is held_out, but ni_ecare trains on its category 'cause'.",
        "ps_squad is partial, but flan_squad trains on its dataset 'squad'.",
    )
    alone = {"mmlu": "partial", "summary": "train"}
    assert levels.leaks(CATALOGUE, alone) == ("mmlu is partial, but no task trains on 'qa'.",)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices(categories=frozenset({"cuase"})), "Choices.categories names 'cuase'"),
        (Choices(datasets=frozenset({"race"})), "Choices.datasets names 'race'"),
        (
            Choices(datasets=frozenset({"squad"}), supervised=frozenset({"squad"})),
            "'squad' is chosen to be partial and supervised",
        ),
        (
            Choices(categories=frozenset({"cause"}), supervised=frozenset({"copa"})),
            "'copa' is chosen to be held_out and supervised",
        ),
        (
            Choices(datasets=frozenset({"squad", "boolq", "mmlu"})),
            "nothing of its category 'qa' is trained on",
        ),
    ],
)
def test_choices_that_cannot_be(choices, message):
    with pytest.raises(ValueError, match=message):
        levels.split(CATALOGUE, choices)


def test_names_are_unique():
    with pytest.raises(ValueError, match="Two tasks of the catalogue are called 'mmlu'"):
        levels.split([*CATALOGUE, task("mmlu", "qa")], CHOICES)
