from __future__ import annotations

import pytest

from ul2tune.optim.groups import assign

PATHS = ["decoder/layers/mlp/wi", "encoder/layers/mlp/wi", "encoder/norm", "token_embedding"]


def values(table):
    return {path: value for path, (_, value) in assign(table, PATHS, "groups").items()}


def test_the_first_match_of_the_whole_path_counts():
    table = [("encoder/norm", 3), ("encoder/.*", 2), (".*", 1)]
    assert values(table) == dict(zip(PATHS, [1, 2, 3, 1]))
    with pytest.raises(ValueError, match="pattern 'norm' matches no parameter"):
        values([("norm", 2), (".*", 1)])


def test_uncovered_parameters_are_named_with_the_nearest_pattern():
    message = r"groups does not cover parameter 'token_embedding' \(nearest pattern: 'token_emb'\)"
    with pytest.raises(ValueError, match=message):
        values([("(en|de)coder/.*", 1), ("token_emb", 2)])
    with pytest.raises(ValueError, match="nearest pattern: 'none, the table is empty'"):
        values([])


def test_patterns_that_match_nothing_are_named_with_the_nearest_parameter():
    with pytest.raises(
        ValueError, match=r"'encoder/normm' matches no .* nearest is 'encoder/norm'"
    ):
        values([("encoder/normm", 2), (".*", 1)])


def test_patterns_that_come_too_late_are_refused():
    with pytest.raises(ValueError, match=r"'encoder/\.\*' decides nothing, .* move it up"):
        values([(".*", 1), ("encoder/.*", None)])


def test_a_closing_catch_all_may_be_idle():
    assert set(values([("(en|de)coder/.*", 1), ("token.*", 2), (".*", 3)]).values()) == {1, 2}


def test_broken_expressions_are_refused():
    with pytest.raises(ValueError, match=r"groups: '\(' is not a regular expression"):
        values([("(", 1)])
