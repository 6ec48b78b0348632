from __future__ import annotations

import re

import jax.numpy as jnp
import pytest

from ul2tune.optim.groups import assign
from ul2tune.optim.optimizer import OptimizerConfig, make

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


@pytest.mark.parametrize("repeated", ["encoder/.*", ".*"])
def test_a_pattern_may_not_stand_there_twice(repeated):
    table = [(repeated, 1.0), ("(en|de)coder/norm", 2.0), (repeated, "freeze"), (".*", 0.5)]
    message = rf"groups: entries 1 and 3 have the same pattern '{re.escape(repeated)}'"
    with pytest.raises(ValueError, match=message):
        values(table)


@pytest.mark.parametrize("field", ["groups", "decay_groups"])
def test_neither_table_of_the_optimizer_takes_a_pattern_twice(field):
    table = (("encoder/.*", 1.0), ("encoder/.*", 0.5), (".*", 0.5))
    config = OptimizerConfig(name="adamw", weight_decay=0.1, **{field: table})
    params = {"encoder": {"wi": jnp.ones((2, 2))}, "head": jnp.ones((2, 2))}
    axes = {"encoder": {"wi": ("embed", "mlp")}, "head": ("embed", "vocab")}
    with pytest.raises(ValueError, match=rf"OptimizerConfig\.{field}: entries 1 and 2 have the"):
        make(config, params, axes)
