"""docs/parity.md: the calls are real, every golden is named, and so are tests that exist."""

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "parity.md"


def test_the_examples_are_true():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 30
    assert result.failed == 0


def test_every_golden_is_named(shared):
    text = PAGE.read_text(encoding="utf-8")
    names = [path.stem for path in (shared / "golden").glob("*/*.npz")]
    for pattern in ("*/golden_*", "*_golden"):
        names += [path.stem for path in (shared / "data").glob(pattern)]
    assert len(names) > 12
    for name in names:
        name = "pipeline_*" if name.startswith("pipeline_") else name
        assert f"`{name}`" in text, name


def test_every_test_it_names_is_there():
    text = PAGE.read_text(encoding="utf-8")
    tests = re.findall(r"`(tests/[^`]*)`", text)
    assert len(tests) > 20
    for test in tests:
        assert (PAGE.parents[1] / test).is_file(), test
