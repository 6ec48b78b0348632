"""Mean, median and quartiles over prompts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.metrics.spread import spread


def test_a_spread_by_hand():
    found = spread([50.0, 40.0, 90.0, 60.0])
    assert (found.num_prompts, found.mean, found.median) == (4, 60.0, 55.0)
    assert (found.first_quartile, found.third_quartile) == (47.5, 67.5)
    assert (found.minimum, found.maximum) == (40.0, 90.0)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_it_equals_numpys(values: list[float]):
    found = spread(values)
    quartiles = np.percentile(values, [25, 50, 75])
    ours = [found.first_quartile, found.median, found.third_quartile]
    np.testing.assert_allclose(ours, quartiles, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.mean, np.mean(values), rtol=1e-12, atol=1e-12)


def test_nothing_has_no_spread():
    with pytest.raises(ValueError, match="at least one prompt"):
        spread([])
