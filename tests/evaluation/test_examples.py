"""Prepared data -> the set of examples."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.evaluation import prepared
from ul2tune.data import manifest, vocab
from ul2tune.data.rates import Share
from ul2tune.evaluation import examples, splits
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.sources import Sources
from ul2tune.instructions.records import Demo, Rendered

EOS = 1


def load(folder, mixture="instructions", **options):
    return examples.load(
        mixture, str(folder), **{"split": "validation", "inputs_length": 64, **options}
    )


def test_everything_travels(tmp_path):
    found = load(prepared.write(tmp_path))
    assert len(found.examples) == 14
    one = found.examples[8]
    assert (one.task, one.id, one.category, one.name) == (
        "is_long", "1", "Classification", "is_long/1"
    )  # fmt: skip
    assert one.inputs_text == "is_long word "
    assert one.references == ("yes", "long")
    assert one.inputs_S.tolist() == [*prepared.VOCABULARY.encode("is_long word "), EOS]
    assert [ids.tolist() for ids in one.choice_ids] == [
        [*prepared.VOCABULARY.encode(choice), EOS] for choice in ("yes", "no", "odd")
    ]
    assert one.baselines == {"copy_input": "is_long word "}
    assert one.split_level == "train"
    assert found.examples[0].choice_ids == ()
    assert found.fingerprints == {"first": "print-first", "is_long": "print-is_long"}


def test_long_prompts_are_cut_but_keep_their_end(tmp_path):
    found = load(prepared.write(tmp_path), inputs_length=12)
    cut = [example for example in found.examples if example.truncated]
    assert cut
    assert all(e.inputs_S.size == 12 and e.inputs_S[-1] == EOS for e in cut)
    # The words are those the model sees.
    assert {example.inputs_text for example in cut} == {"first word ", "is_long wor"}


@pytest.mark.parametrize(
    ("inputs", "end", "keeps"),
    [
        ({"add_eos": True}, [], True),
        ({"add_eos": True, "eos_after_trim": True}, [], True),
        ({"add_eos": True, "eos_after_trim": False}, [], False),
        ({"add_eos": False}, [EOS], False),
        ({"add_eos": False}, [], False),
    ],
)
@pytest.mark.parametrize("length", [9, 10, 11, 12])
def test_prompts_are_cut_and_ended_as_in_training(tmp_path, inputs, end, keeps, length):
    """Of 10 tokens, end not counted."""
    (record,) = prepared.records("first", 1)
    rows = [(record, Rendered(inputs="a b c d e ", targets="x"))]
    features = {name: {"tokens": 20, **inputs} for name in ("inputs", "targets")}
    for split in ("train", "validation"):
        prepared.write_rows(tmp_path, "first", split, rows, end=end, features=features)
    mixture = manifest.MixtureManifest(name="instructions", tasks=("first",), rates=(1.0,))
    manifest.write(mixture, manifest.mixture_path(tmp_path, "instructions"))
    (found,) = load(tmp_path, inputs_length=length).examples
    lengths = {"inputs": length, "targets": 20}
    config = FeedConfig(
        mixture="instructions", data_dir=str(tmp_path), feature_lengths=lengths, batch_size=1
    )
    sources = Sources(config)
    (trained,) = sources.examples(0, np.arange(1))
    sources.close()
    assert found.inputs_S.tolist() == trained.inputs.tolist()
    assert (found.inputs_S[-1] == EOS) == (
        keeps or (length > 10 and bool(end or inputs["add_eos"]))
    )
    assert found.truncated == (length < 10 + keeps)


def test_what_a_renderer_cut_is_marked(tmp_path):
    rows = [
        (record, Rendered(inputs=record.input, targets="x", truncated=record.id == "1"))
        for record in prepared.records("first", 3)
    ]
    prepared.write_rows(tmp_path, "first", "validation", rows)
    mixture = prepared.MixtureManifest(name="instructions", tasks=("first",), rates=(1.0,))
    manifest.write(mixture, manifest.mixture_path(tmp_path, "instructions"))
    found = load(tmp_path).examples
    assert [example.truncated for example in found] == [False, True, False]
    assert found[1].inputs_text == rows[1][1].inputs


def test_baselines_cover_empty_inputs_and_targets(tmp_path):
    """Else score and baseline would be over different examples."""
    record = prepared.records("first", 1)[0]
    empty, some = Demo(id="d", input="q", target=""), Demo(id="d", input="q", target="a")
    rows = [
        (
            dataclasses.replace(record, id=str(number), input=text, demos=demos),
            Rendered(inputs="p", targets="x", demo_ids=tuple(demo.id for demo in demos)),
        )
        for number, (text, demos) in enumerate([("in", (some,)), ("", (empty,)), ("", ())])
    ]
    prepared.write_rows(tmp_path, "first", "validation", rows)
    mixture = prepared.MixtureManifest(name="instructions", tasks=("first",), rates=(1.0,))
    manifest.write(mixture, manifest.mixture_path(tmp_path, "instructions"))
    assert [example.baselines for example in load(tmp_path).examples] == [
        {"copy_input": "in", "copy_demo": "a"},
        {"copy_input": "", "copy_demo": ""},
        {"copy_input": ""},
    ]


def test_an_example_without_references_is_named(tmp_path):
    """A task's own list may be empty; the target that is trained on is then the reference."""
    (record,) = prepared.records("first", 1)
    mixture = prepared.MixtureManifest(name="instructions", tasks=("first",), rates=(1.0,))
    manifest.write(mixture, manifest.mixture_path(tmp_path, "instructions"))
    for split, target in (("validation", "x"), ("test", "")):
        rows = [(record, Rendered(inputs="p", targets=target))]
        prepared.write_rows(tmp_path, "first", split, rows, fields={"targets_text": []}, end=[EOS])
    assert load(tmp_path).examples[0].references == ("x",)
    with pytest.raises(
        ValueError, match=r"Example '0' of task 'first' has no references: .* Leave"
    ):
        load(tmp_path, split="test")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("answer_choices", "yes"),
        ("answer_choices", [1, 2]),
        ("metric_names", "rouge_l"),
        ("demo_ids", "ab"),
        ("targets_text", [3.5]),
        ("targets_text", 3.5),
    ],
)
def test_lists_of_a_task_of_another_make_must_be_lists_of_texts(tmp_path, field, value):
    """A text would be read as a list of its letters."""
    (record,) = prepared.records("first", 1)
    rows = [(record, Rendered(inputs="p", targets="x"))]
    prepared.write_rows(tmp_path, "first", "validation", rows, fields={field: value})
    mixture = prepared.MixtureManifest(name="instructions", tasks=("first",), rates=(1.0,))
    manifest.write(mixture, manifest.mixture_path(tmp_path, "instructions"))
    with pytest.raises(
        ValueError, match=f"Example '0' of task 'first': '{field}' must be a list of strings, got"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    "value", ["who?", ["who?"], [{"inputs": "p"}], "5", '["who?"]', '[{"q": 1}]']
)
def test_queries_of_a_task_of_another_make_are_a_sentence(tmp_path, value):
    rows = [(record, Rendered(inputs="p", targets="x")) for record in prepared.records("first", 1)]
    prepared.write_rows(tmp_path, "first", "validation", rows, fields={"queries": value})
    mixture = prepared.MixtureManifest(name="instructions", tasks=("first",), rates=(1.0,))
    manifest.write(mixture, manifest.mixture_path(tmp_path, "instructions"))
    with pytest.raises(ValueError, match="Example '0' of task 'first': 'queries' must be what"):
        load(tmp_path)


@pytest.mark.parametrize("value", [["a", "b"], 5, {"a": 1}, ""])
def test_inputs_text_of_a_task_of_another_make_is_not_taken_for_the_prompt(tmp_path, value):
    rows = [(record, Rendered(inputs="p", targets="x")) for record in prepared.records("first", 1)]
    prepared.write_rows(tmp_path, "first", "validation", rows, fields={"inputs_text": value})
    mixture = prepared.MixtureManifest(name="instructions", tasks=("first",), rates=(1.0,))
    manifest.write(mixture, manifest.mixture_path(tmp_path, "instructions"))
    assert load(tmp_path).examples[0].inputs_text == "p"


@pytest.mark.parametrize("field", ["task", "category", "template_id", "benchmark", "render_seed"])
def test_a_label_of_a_task_of_another_make_may_be_a_number(tmp_path, field):
    """Examples are grouped by it; beside texts, numbers have no order."""
    rows = [(record, Rendered(inputs="p", targets="x")) for record in prepared.records("first", 1)]
    mixture = prepared.MixtureManifest(name="instructions", tasks=("first",), rates=(1.0,))
    manifest.write(mixture, manifest.mixture_path(tmp_path, "instructions"))
    prepared.write_rows(tmp_path, "first", "validation", rows, fields={field: 0})
    prepared.write_rows(tmp_path, "first", "test", rows, fields={field: [0]})
    names = {"task": "record_task", "render_seed": "seed"}
    assert getattr(load(tmp_path).examples[0], names.get(field) or field) == "0"
    expected = rf"Example '0' of task 'first': '{field}' must be a text or a number, got \[0\]: "
    with pytest.raises(ValueError, match=expected):
        load(tmp_path, split="test")


def test_inputs_without_targets_are_no_prompts(tmp_path):
    prepared.write(tmp_path, features={"inputs": {}})
    with pytest.raises(ValueError, match="Task 'first' holds raw text for denoising, not prompts"):
        load(tmp_path)


def test_tasks_that_are_never_drawn_are_evaluated_if_they_have_prompts(tmp_path):
    folder = prepared.write(tmp_path)
    prepared.write_rows(folder, "empty", "validation", [])
    rows = [(record, Rendered(inputs="x", targets="x")) for record in prepared.records("first")]
    prepared.write_rows(folder, "text", "validation", rows, online={"kind": "ul2"})
    leaves = [
        Share(name=name, rate=float(name == "first"), weight=1.0, examples=None)
        for name in ("text", "first", "empty", "is_long")
    ]
    tree = Share(name="m", rate=1.0, weight=1.0, examples=None, children=tuple(leaves)).to_json()
    mixture = manifest.MixtureManifest(name="m", tasks=("first",), rates=(1.0,), tree=tree)
    manifest.write(mixture, manifest.mixture_path(folder, "m"))
    found = load(folder, "m")
    assert found.fingerprints == {"first": "print-first", "is_long": "print-is_long"}
    assert found.split_hash == load(folder).split_hash


def test_limits_and_split_hash(tmp_path):
    folder = prepared.write(tmp_path)
    two = load(folder, max_examples_per_task=2)
    assert [example.name for example in two.examples] == [
        "first/0", "first/1", "is_long/0", "is_long/1"
    ]  # fmt: skip
    assert two.split_hash == load(folder, max_examples_per_task=2).split_hash
    assert two.split_hash != load(folder).split_hash


def test_users_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="ul2tune prepare"):
        load(tmp_path)
    folder = prepared.write(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=r"ul2tune prepare.* examples: 'validation'\."):
        load(folder, split="test")
    for task in prepared.TASKS:
        prepared.write_rows(folder, task, "train", [])
    with pytest.raises(ValueError, match=r"Split 'train' of .* no examples.*: 'validation'\."):
        load(folder, split="train")
    noisy = prepared.write(tmp_path / "noisy", online={"kind": "ul2"})
    with pytest.raises(ValueError, match="'first' holds raw text for denoising"):
        load(noisy)


def test_a_damaged_split_does_not_hide_what_is_wrong_with_the_one_asked_for(tmp_path):
    folder = prepared.write(tmp_path)
    for task in ("first", "is_long"):
        other = folder / task / "old"
        other.mkdir()
        (other / "manifest.json").write_text("{")
    with pytest.raises(FileNotFoundError, match=r"ul2tune prepare.* examples: 'validation'\."):
        load(folder, split="test")


def test_tasks_share_one_reading_of_their_vocabulary(tmp_path, monkeypatch):
    """A suite has a task per subject, and a tokenizer.json is read in seconds."""
    folder, reads, load_vocabulary = prepared.write(tmp_path), [], vocab.load
    monkeypatch.setattr(
        vocab, "load", lambda *args, **k: reads.append(load_vocabulary(*args, **k)) or reads[-1]
    )
    assert load(folder).vocabulary is reads[0]
    assert len(reads) == 1


def test_tasks_must_share_a_vocabulary(tmp_path):
    folder = prepared.write(tmp_path)
    other = prepared.vocab.ByteVocabulary(extra_ids=5, modes=()).to_json()
    entry = manifest.read_task(folder, "first", "validation")
    path = manifest.task_dir(folder, "first", "validation") / "manifest.json"
    manifest.write(prepared.TaskManifest(**{**vars(entry), "vocabulary": other}), path)
    with pytest.raises(ValueError, match="different vocabularies"):
        load(folder)
    with pytest.raises(ValueError, match="different vocabularies"):
        splits.vocabulary_of("instructions", str(folder))


def test_names_must_differ(tmp_path, monkeypatch):
    first = {task: prepared.records(task)[0] for task in prepared.TASKS}
    monkeypatch.setattr(prepared, "records", lambda task: [first[task]] * 2)
    with pytest.raises(ValueError, match="Two examples of 'instructions' are called 'first/0'"):
        load(prepared.write(tmp_path))
