"""Row-stream states as JSON: all int64 values exact, given back by row id."""

import json

import numpy as np
import pytest

from ul2tune.checkpoints import streams

STATE = {
    "row": np.array([2, 0, 1]),
    "position": np.array([2**62 + 1, -1, 2**40], np.int64),
    "pending": np.array([[1, 2], [3, 4], [5, -(2**63)]], np.int64),
}


def test_round_trip_through_json_by_row_id():
    saved = json.loads(json.dumps(streams.gather(STATE)))
    assert saved["row"] == [0, 1, 2]
    for rows in ([2, 0, 1], [1], [0, 2]):
        state = streams.select(saved, rows)
        order = [list(STATE["row"]).index(row) for row in rows]
        for name, value in STATE.items():
            np.testing.assert_array_equal(state[name], value[order])
            assert state[name].dtype == np.int64


def test_rows_held_twice_are_kept_once():
    twice = {name: np.concatenate([value, value]) for name, value in STATE.items()}
    assert streams.gather(twice) == streams.gather(STATE)


def test_another_batch_size_is_refused():
    with pytest.raises(ValueError, match="Use BATCH_SIZE = 3"):
        streams.select(streams.gather(STATE), [0, 3])
