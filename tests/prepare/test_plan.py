"""Dividing a task's preprocessors, fingerprints, shard counts, names."""

import functools

import pytest
import seqio

from ul2tune.data.ul2 import preset
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.prepare import plan as plans
from ul2tune.prepare.identity import identity
from ul2tune.prepare.plan import make_plan, split_pipeline
from ul2tune.prepare.preprocessors import UL2Preprocessor
from ul2tune.prepare.runners import choose_num_workers
from ul2tune.prepare.seqio_vocab import SeqioVocabulary
from ul2tune.prepare.tasks import register_text_task

FEATURE = seqio.Feature(SeqioVocabulary(ByteVocabulary()))
NOISE = UL2Preprocessor(preset("ul2"))
PLACEHOLDER = seqio.CacheDatasetPlaceholder()
append_eos = seqio.preprocessors.append_eos
append_eos_after_trim = seqio.preprocessors.append_eos_after_trim


def clean(dataset):
    return dataset


def make_task(name, steps, **features):
    return seqio.Task(
        name,
        source=seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"]),
        preprocessors=steps,
        output_features=features or {"targets": FEATURE},
    )


@pytest.mark.parametrize(
    ("steps", "offline", "online", "append"),
    [
        ([], [], False, None),
        ([clean], [clean], False, None),
        ([clean, append_eos], [clean], False, "before_trim"),
        ([clean, append_eos_after_trim], [clean], False, "after_trim"),
        ([append_eos, clean], [append_eos, clean], False, None),
        ([append_eos, append_eos], [append_eos], False, "before_trim"),
        ([clean, PLACEHOLDER, append_eos], [clean], False, "before_trim"),
        ([clean, append_eos, PLACEHOLDER], [clean, append_eos], False, None),
        ([clean, PLACEHOLDER, NOISE], [clean], True, None),
    ],
)
def test_pipelines_that_work(steps, offline, online, append):
    found = split_pipeline(make_task("t", steps))
    assert list(found.offline) == offline
    assert (found.online is not None) == online
    assert found.append_eos == append


def trims(dataset, sequence_length):
    return dataset


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([NOISE], "runs UL2Preprocessor before its CacheDatasetPlaceholder or has none"),
        ([NOISE, PLACEHOLDER], "the noise would be the same in every epoch"),
        ([PLACEHOLDER, clean], "runs clean after its CacheDatasetPlaceholder"),
        ([PLACEHOLDER, NOISE, append_eos], "runs append_eos after"),
        ([PLACEHOLDER, append_eos, NOISE], "runs UL2Preprocessor after"),
        ([PLACEHOLDER, append_eos, append_eos], "runs append_eos after"),
        ([PLACEHOLDER, NOISE, NOISE], "only one UL2Preprocessor"),
        ([trims], "needs the run's sequence lengths"),
    ],
)
def test_pipelines_that_do_not(steps, message):
    # SeqIO itself refuses a `sequence_length` before a placeholder, so NOISE raises there first.
    with pytest.raises(ValueError, match=rf"{message}|occurs before `CacheDatasetPlaceholder`"):
        split_pipeline(make_task("t", steps))


def test_a_bound_length_is_fine():
    bound = functools.partial(trims, sequence_length={"targets": 5})
    assert split_pipeline(make_task("t", [bound])).offline == (bound,)


def test_one_vocabulary_per_task():
    other = seqio.Feature(SeqioVocabulary(ByteVocabulary(extra_ids=3)))
    with pytest.raises(ValueError, match="features with different vocabularies"):
        make_plan(make_task("t", [], inputs=other, targets=FEATURE), "train")


def test_fingerprint_follows_everything_that_changes_the_bytes(name, words):
    def fingerprint(*, split="train", num_shards=1, **changes):
        settings = {"format": "jsonl", "vocabulary": ByteVocabulary(), "objective": "ul2"} | changes
        task = register_text_task(name, words, **settings)
        seqio.TaskRegistry.remove(name)
        return make_plan(task, split, num_shards).fingerprint

    base = fingerprint()
    assert fingerprint() == base
    assert fingerprint(objective="ul2r") == base  # the noise is applied later
    others = [
        fingerprint(split="validation"),
        fingerprint(num_shards=2),
        fingerprint(format="documents"),
        fingerprint(text_key="other"),
        fingerprint(vocabulary=ByteVocabulary(extra_ids=7)),
        fingerprint(validation_fraction=0.1),
        fingerprint(objective=None),
    ]
    assert len({base, *others}) == 1 + len(others)


def add(dataset, number=1, key="x"):
    return number, key


def test_identity_sees_code_arguments_and_closures():
    def make(number):
        def inner(dataset):
            return number

        return inner

    values = [
        add,
        clean,
        functools.partial(add, number=2),
        functools.partial(add, number=3),
        functools.partial(add, key="y"),
        make(1),
        make(2),
        lambda dataset: dataset,
        UL2Preprocessor(preset("ul2")),
        UL2Preprocessor(preset("ul2"), window=3),
        UL2Preprocessor(preset("ul2r")),
        seqio.preprocessors.tokenize,
        seqio.ByteVocabulary(),
        seqio.ByteVocabulary(extra_ids=4),
        {"a": 1},
        {"a": 2},
        (1, 2),
    ]
    found = [str(identity(value)) for value in values]
    assert len(set(found)) == len(values)
    assert found == [str(identity(value)) for value in values]
    assert not any("0x" in text for text in found)  # no addresses: equal in every process
    assert identity(functools.partial(add, number=2)) == identity(functools.partial(add, number=2))
    assert identity(make(1)) == identity(make(1))


def test_shards_by_size(name, words, monkeypatch):
    task = register_text_task(name, words, format="jsonl", vocabulary=ByteVocabulary())
    assert plans.default_num_shards(task.source, "train") == 1
    monkeypatch.setattr(plans, "BYTES_PER_SHARD", 1000)
    assert plans.default_num_shards(task.source, "train") == 8
    monkeypatch.setattr(plans, "MAX_SHARDS", 5)
    assert plans.default_num_shards(task.source, "train") == 5
    monkeypatch.setattr(plans, "SHARDS_PER_FILE", 3)
    assert plans.default_num_shards(task.source, "train") == 3


def test_workers():
    assert choose_num_workers(0, num_shards=8, num_bytes=10_000) == 1  # not worth a process
    assert choose_num_workers(3, num_shards=8, num_bytes=10_000) == 3  # as asked
    assert choose_num_workers(16, num_shards=8, num_bytes=None) == 8
    assert choose_num_workers(5, num_shards=0, num_bytes=None) == 1


def test_a_name_that_is_not_registered_is_answered_with_the_nearest_of_thousands():
    for number in range(30):
        task = make_task(f"many_templates_{number:04}", [])
        seqio.TaskRegistry.add_provider(task.name, task)
    seqio.MixtureRegistry.add("a_few", ["many_templates_0000"], default_rate=1.0)
    with pytest.raises(ValueError, match=r"'many_template_0003' is .*mean 'many_templates_0003'"):
        plans.find_tasks("many_template_0003")
    with pytest.raises(
        ValueError, match=r"no_such'.*there are .*'a_few', .* and \d+ more\."
    ) as told:
        plans.find_tasks("no_such")
    assert "'many_templates_0029'" not in str(told.value)
