"""Elements in Python are those that SeqIO's steps make in TensorFlow."""

from __future__ import annotations

import functools
import json

import pytest
import seqio

from tests import tiny_tokenizers
from ul2tune.data import codec, vocab
from ul2tune.data.documents import FileCorpus
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.instructions import chat
from ul2tune.instructions.superni import TaskFile
from ul2tune.instructions.tk_instruct import render
from ul2tune.prepare import elements, python_steps
from ul2tune.prepare.chat_tasks import register_chat
from ul2tune.prepare.fields import to_example
from ul2tune.prepare.plan import make_plan
from ul2tune.prepare.record_tasks import register_record_task, tk_instruct_renderer
from ul2tune.prepare.seqio_vocab import SeqioVocabulary
from ul2tune.prepare.sources import DocumentSource
from ul2tune.prepare.tasks import register_text_task

pytestmark = pytest.mark.tensorflow

# NUL at the end, a noncharacter that quotes messages, a special token, characters of four bytes.
TEXTS = ["plain", "ends in NUL\0", "\ufdd0 <|im_end|> \ufdd1", "two\nlines 🙂 é", " spaces  "]


def text_task(name, folder):
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return register_text_task(name, str(path), format="jsonl", vocabulary="bytes")


def record_task(name, folder):
    instances = [
        {"id": str(number), "input": text, "output": [text, "other\0"]}
        for number, text in enumerate(TEXTS)
    ]
    path = folder / "task1_x.json"
    path.write_text(json.dumps({"Definition": ["Say it."], "Instances": instances}))
    corpus = TaskFile(path=str(path), eval_instances=0)
    return register_record_task(name, corpus, tk_instruct_renderer(render), vocabulary="bytes")


def chat_task(name, folder):
    (folder / "talk").mkdir()
    lines = [
        {"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": t}]}
        for t in TEXTS
    ]
    (folder / "talk" / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    style = chat.ChatFormat(user=("user: ", "<|im_end|>"), reply_end="<|im_end|>")
    _, task = register_chat(
        folder / "talk",
        name=name,
        style=style,
        validation=0.0,
        vocabulary=vocab.load(tiny_tokenizers.qwen_like(folder / "qwen")),
    )
    return seqio.TaskRegistry.get(task)


def prepared(plan, found) -> list[bytes]:
    keep_text = plan.pipeline.online is None
    return [codec.encode(to_example(e, plan.features, keep_text=keep_text)) for e in found]


@pytest.mark.parametrize("make", [text_task, record_task, chat_task])
def test_what_is_prepared_is_the_same_to_the_byte(make, name, tmp_path, monkeypatch):
    plan = make_plan(make(name, tmp_path), "train", num_shards=2)
    shards = [elements._in_tensorflow(plan, plan.task.source, shard) for shard in range(2)]
    expected = [prepared(plan, shard) for shard in shards]
    assert all(expected)
    # No graph is made, which takes longer than a small task does.
    monkeypatch.delattr(elements.tf.data.Dataset, "from_generator")
    assert [prepared(plan, elements.elements(plan, shard)) for shard in range(2)] == expected


def foreign_step(dataset, output_features):
    return seqio.preprocessors.tokenize(dataset, output_features)


@pytest.mark.parametrize(
    "step",
    [foreign_step, functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False)],
)
def test_steps_that_only_tensorflow_knows_stay_there(step, name, tmp_path):
    task = record_task(name, tmp_path)
    assert python_steps.find(task, [seqio.preprocessors.tokenize]) is not None
    assert python_steps.find(task, [step]) is None


def test_a_feature_that_no_step_makes_is_named(name, tmp_path):
    source = record_task(name, tmp_path).source
    feature = seqio.Feature(vocabulary=SeqioVocabulary(ByteVocabulary()))
    task = seqio.TaskRegistry.add(
        f"{name}_more",
        source=source,
        preprocessors=[seqio.preprocessors.tokenize],
        output_features={"targets": feature, "hints": feature},
    )
    with pytest.raises(ValueError, match="has no feature 'hints' after"):
        next(iter(elements.elements(make_plan(task, "train"))))


@pytest.mark.parametrize("steps", [[], [seqio.preprocessors.append_eos]])
def test_texts_that_no_step_tokenizes_are_refused(steps, name, tmp_path):
    ours = record_task(name, tmp_path)
    task = seqio.TaskRegistry.add(
        f"{name}_raw",
        source=ours.source,
        preprocessors=steps,
        output_features=ours.output_features,
    )
    with pytest.raises(ValueError, match=r"Feature 'inputs' .*tokenize` missing"):
        next(iter(elements.elements(make_plan(task, "train"))))


class LowerCase(DocumentSource):
    """A user's source that changes what ours reads."""

    def get_dataset(self, *args, **kwargs):
        def lower(element):
            return {**element, "text": elements.tf.strings.lower(element["text"])}

        return super().get_dataset(*args, **kwargs).map(lower)


def test_a_dataset_that_a_source_changes_is_what_is_prepared(name, tmp_path):
    ours = text_task(name, tmp_path)
    (tmp_path / "loud.txt").write_text("LOUD")
    task = seqio.TaskRegistry.add(
        f"{name}_lower",
        source=LowerCase(FileCorpus(files=str(tmp_path / "loud.txt")), validation_fraction=0.0),
        preprocessors=ours.preprocessors,
        output_features=ours.output_features,
    )
    (element,) = elements.elements(make_plan(task, "train"))
    assert element["targets"].tolist() == ByteVocabulary().encode("loud")
