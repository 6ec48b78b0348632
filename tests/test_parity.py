"""docs/parity.md: the calls are real, and every golden of the set is named."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "parity.md"


def test_the_examples_are_true():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 30
    assert result.failed == 0


def test_every_golden_is_named(shared):
    text = PAGE.read_text(encoding="utf-8")
    names = [path.stem for path in (shared / "golden" / "ul2").glob("*.npz")]
    assert names
    for name in names:
        name = "pipeline_*" if name.startswith("pipeline_") else name
        assert f"`{name}`" in text, name
    for test in {part.strip("` ") for line in text.splitlines() for part in line.split("|")}:
        if test.startswith("tests/"):
            assert (PAGE.parents[1] / test).is_file(), test
