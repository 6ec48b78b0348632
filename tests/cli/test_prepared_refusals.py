"""What of prepared data stays when preparing more of it is refused.

Here `ul2tune prepare` runs in this process: a child, as in test_prepared.py, takes five seconds to
load TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import types
import warnings
from collections.abc import Mapping, Sequence

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import seqio

from tests.cli.test_prepared import ASK, contents, edit, project  # noqa: F401
from ul2tune.cli import main, parent, prepared
from ul2tune.data.embedding_rows import ROWS
from ul2tune.feed.config import FEED, FeedConfig

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("here")]


class Here:
    """A child that has ended by the time it is made: its command ran in this process."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]):
        assert command[:3] == [sys.executable, "-m", "ul2tune"]
        with pytest.MonkeyPatch.context() as patch:
            for name in env.keys() - parent.named().keys():
                patch.setenv(name, env[name])
            self.status = main.main(command[3:])
        for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
            for name in {"notes", "all"} & set(registry.names()):
                registry.remove(name)
        del sys.modules["own_tasks"]

    def wait(self, timeout: float = 0.0) -> int:
        return self.status

    def kill(self) -> None:
        pass


@pytest.fixture
def here(project, monkeypatch) -> None:  # noqa: F811
    monkeypatch.syspath_prepend(project)
    monkeypatch.setattr(prepared.subprocess, "Popen", Here)


def test_a_new_mixture_does_not_replace_a_task_that_another_one_has(project, capfd):  # noqa: F811
    prepared.prepare_missing(mixture="notes", **ASK, splits=("train",))
    before = contents(project)
    edit(project)
    with (project / "own_tasks.py").open("a") as file:
        file.write("import seqio\nseqio.MixtureRegistry.add('all', ['notes'], default_rate=1.0)\n")
    with pytest.raises(ValueError, match="Preparing it failed with exit status 1"):
        prepared.prepare_missing(mixture="all", **ASK, splits=("train",))
    assert (
        "data/notes/train was made by another version, or before its task" in capfd.readouterr().err
    )
    assert contents(project) == before


def test_nothing_is_prepared_for_a_model_with_too_few_rows(project, capfd):  # noqa: F811
    failed = pytest.raises(ValueError, match=r"Preparing it failed .* 1")
    with failed, prepared.for_run(model=types.SimpleNamespace(vocab_size=100)):
        prepared.prepare_missing(mixture="notes", **ASK)
    told = r"The vocabulary of 'notes' has \d+ ids but the model 100 rows\. Set its vocab_size"
    assert re.search(told, capfd.readouterr().err)
    assert not list((project / "data").rglob("*.arrayrecord"))
    assert ROWS not in os.environ


def test_nothing_is_prepared_for_rows_too_short_for_its_noise(project, capfd, monkeypatch):  # noqa: F811
    monkeypatch.setenv(ROWS, "1000")
    lengths = {"inputs": 64, "targets": 32}
    config = FeedConfig(mixture="notes", data_dir="data", feature_lengths=lengths, batch_size=2)
    failed = pytest.raises(ValueError, match=r"Preparing it failed .* 1")
    with failed, prepared.for_run(data=config):
        prepared.prepare_missing(mixture="notes", **ASK)
    told = f"TASK_FEATURE_LENGTHS {lengths} are too small for denoiser 'R1' of task 'notes'"
    assert told in capfd.readouterr().err
    assert not list((project / "data").rglob("*.arrayrecord"))
    assert os.environ[ROWS] == "1000"
    assert FEED not in os.environ
    config = dataclasses.replace(config, min_segment_tokens=16)
    with prepared.for_run(data=config):
        prepared.prepare_missing(mixture="notes", **ASK)


def test_a_mixture_of_which_a_run_reads_a_part_is_prepared(project):  # noqa: F811
    lengths = {"inputs": 64, "targets": 32}
    config = FeedConfig(mixture="part", data_dir="data", feature_lengths=lengths, batch_size=2)
    with prepared.for_run(data=config):
        prepared.prepare_missing(mixture="notes", **ASK, splits=("train",))
    assert list((project / "data/notes").rglob("*.arrayrecord"))
