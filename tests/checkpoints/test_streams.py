"""Row-stream states as JSON: all int64 values exact."""

import json

import numpy as np

from ul2tune.checkpoints import streams

STATE = {
    "row": np.array([2, 0, 1]),
    "position": np.array([2**62 + 1, -1, 2**40], np.int64),
    "pending": np.array([[1, 2], [3, 4], [5, -(2**63)]], np.int64),
}


def test_round_trip_through_json_sorted_by_row():
    state = streams.restore(json.loads(json.dumps(streams.gather(STATE))))
    assert state.keys() == STATE.keys()
    for name, value in STATE.items():
        np.testing.assert_array_equal(state[name], value[[1, 2, 0]])
        assert state[name].dtype == np.int64


def test_rows_held_twice_are_kept_once():
    twice = {name: np.concatenate([value, value]) for name, value in STATE.items()}
    assert streams.gather(twice) == streams.gather(STATE)
