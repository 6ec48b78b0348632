"""SeqIO and TensorFlow in the test process: imported once, their import-time warnings not ours."""

import itertools
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ul2tune.prepare.tasks

import pytest
import seqio

from ul2tune.data.vocab import ByteVocabulary

_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """A task name that nothing else uses."""
    return f"task_{next(_numbers)}"


@pytest.fixture
def words(tmp_path) -> str:
    """A JSON-lines file of 200 short documents of distinct numbers; its path."""
    path = tmp_path / "words.jsonl"
    path.write_text("".join(f'{{"text": "document {i} of the corpus"}}\n' for i in range(200)))
    return str(path)


@pytest.fixture
def task(name, words) -> seqio.Task:
    """That file as a task named `name`."""
    return ul2tune.prepare.tasks.register_text_task(
        name, words, format="jsonl", vocabulary=ByteVocabulary()
    )


@pytest.fixture(autouse=True)
def _registries():
    """Leaves SeqIO's registries as they were."""
    registries = (seqio.TaskRegistry, seqio.MixtureRegistry)
    before = [set(registry.names()) for registry in registries]
    yield
    for registry, names in zip(registries, before, strict=True):
        for added in set(registry.names()) - names:
            registry.remove(added)
