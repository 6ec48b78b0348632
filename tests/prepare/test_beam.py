"""The Beam runner over the same shards, on Beam's own local runner."""

import importlib.util
import sys
import warnings

import pytest

from tests.prepare import reading
from ul2tune.data import manifest
from ul2tune.prepare.run import prepare

TASK_MODULE = """
from ul2tune.prepare.tasks import register_text_task
register_text_task("beamed", {words!r}, format="jsonl", vocabulary="bytes")
"""


@pytest.fixture
def beamed(tmp_path, words, monkeypatch) -> str:
    (tmp_path / "beamed_task.py").write_text(TASK_MODULE.format(words=words))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "beamed_task", raising=False)
    return "beamed_task"


@pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="apache_beam is not installed (it caps protobuf, so it has an environment of its own)",
)
def test_beam_makes_the_same_bytes(beamed, tmp_path):
    for folder, runner in (("a", "processes"), ("b", "beam --direct_num_workers=1")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Beam's own
            prepare(
                "beamed", [beamed], str(tmp_path / folder), num_shards=4, num_workers=1,
                runner=runner,
            )  # fmt: skip
    one, two = (manifest.read_task(tmp_path / folder, "beamed", "train") for folder in "ab")
    assert one == two  # checksums of all shards among it
    texts = reading.texts(tmp_path / "b", "beamed")
    assert len(texts) == one.num_examples > 150


def test_without_beam_the_error_says_how_to_get_it(beamed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ValueError, match=r'needs apache_beam: `pip install "ul2tune\[prepare,beam'):
        prepare("beamed", [beamed], str(tmp_path), num_shards=4, runner="beam")
