"""Two real processes restore together: what one of them meets, both answer alike."""

from __future__ import annotations

import json

import pytest

from tests.training import processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """{case: [what process 0 reports, what process 1 reports]}, and the folder."""
    folder = tmp_path_factory.mktemp("together")
    port = processes.free_port()
    both = [
        processes.launch("tests.checkpoints.worker", str(i), str(port), str(folder))
        for i in range(2)
    ]
    processes.finish_all(both)
    first, second = (json.loads((folder / f"report{i}.json").read_text()) for i in range(2))
    return {case: [first[case], second[case]] for case in first | second}, folder


@pytest.mark.parametrize(
    ("case", "folder"), [("arrays of process 1 damaged", "arrays"), ("meta damaged", "meta")]
)
def test_damage_that_one_process_meets_makes_both_fall_back(outcomes, case, folder):
    found, root = outcomes
    assert [one["found"] for one in found[case]] == [1, 1]
    assert sorted(p.name for p in (root / folder).iterdir()) == ["1", "2.bad"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("newer format", "newer/2 was made by a newer ul2tune: its format version is 99"),
        ("not shared", "MODEL_DIR must be one folder shared by all processes"),
        ("refused by process 1", "sound/2 is refused"),
        ("nothing to resolve", "No checkpoint at"),
    ],
)
def test_what_one_process_refuses_both_refuse(outcomes, case, words):
    found, root = outcomes
    for one in found[case]:
        assert one["error"] == "ValueError"
        assert words in one["message"]
    for folder in ("newer", "sound"):
        assert sorted(p.name for p in (root / folder).iterdir()) == ["1", "2"]


def test_what_one_process_cannot_import_none_can(outcomes):
    """Those of the user's mistakes that `ul2tune` tells in a sentence keep their kind."""
    own, other = outcomes[0]["package that process 1 lacks"][::-1]
    assert (own["error"], other["error"]) == ("ModuleNotFoundError", "ImportError")
    assert other["message"] == "No module named 'no_such' (process 1)"


def test_both_take_the_step_that_process_0_finds(outcomes):
    found, root = outcomes
    assert [one["found"] for one in found["resolved"]] == [str(root / "sound/2")] * 2


def test_streams_travel_in_two_exchanges_however_many_rows_each_process_has(outcomes):
    found, _ = outcomes
    pending = [[[0, 2**62], [-1, 5]], [[1, 2**62], [-1, 5]]]
    for one in found["streams"]:
        assert one["found"] == {"state": {"row": [0, 1], "pending": pending}, "calls": 2}
