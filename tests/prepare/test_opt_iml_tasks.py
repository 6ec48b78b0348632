"""OPT-IML over registered collections: their tasks once more, its rates, decoder-only rows."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import seqio

from tests import tiny_tokenizers
from ul2tune.data import vocab
from ul2tune.data.documents import FileCorpus
from ul2tune.data.manifest import read_mixture
from ul2tune.feed.feed import Feed, FeedConfig
from ul2tune.instructions import opt_iml
from ul2tune.instructions.chat import ChatFormat
from ul2tune.instructions.records import Demo, Record, Rendered
from ul2tune.prepare import run
from ul2tune.prepare.chat_tasks import register_chat
from ul2tune.prepare.identity import identity
from ul2tune.prepare.opt_iml_tasks import register_opt_iml, register_pretraining
from ul2tune.prepare.record_tasks import RecordSource, register_record_task
from ul2tune.prepare.seqio_vocab import from_seqio
from ul2tune.prepare.tasks import register_text_task

pytestmark = pytest.mark.tensorflow


@dataclass(frozen=True)
class Corpus:
    number: int
    splits = ("train",)

    def read(self, split: str) -> Iterator[Record]:
        for i in range(self.number):
            yield Record(
                id=str(i),
                task="t",
                instruction="Add one.",
                input=f"{i}",
                targets=(f"{i + 1} ",),
                demos=(Demo(input="1", target="2"),),
            )

    def fingerprint(self) -> str:
        return str(self.number)


def own_prompt(record: Record, seed: int) -> Rendered | None:
    if record.id == "3":
        return None
    ending = ":" if int(record.id) % 2 else "?"
    return Rendered(inputs=f"What follows {record.input}{ending} ", targets=record.targets[0])


def make_renderer(tokenizer):
    return functools.partial(own_prompt)


@pytest.fixture
def mixture(name, words):
    for benchmark, number in (("flan", 40), ("niv2", 60)):
        register_record_task(
            f"{name}_{benchmark}", Corpus(number), make_renderer, vocabulary="bytes"
        )
    register_pretraining(
        f"{name}_text", FileCorpus(files=words, format="jsonl"), vocabulary="bytes"
    )
    register_opt_iml(
        name,
        {"flan": [f"{name}_flan"], "niv2": [f"{name}_niv2"]},
        pretraining=[f"{name}_text"],
        demos=1,
    )
    return name


def texts(task):
    rows = seqio.get_mixture_or_task(task).get_dataset(None, "train", shuffle=False)
    return [
        (row["inputs_pretokenized"].decode(), row["targets_pretokenized"].decode(), row)
        for row in rows.as_numpy_iterator()
    ]


def test_every_collection_in_opt_imls_form(mixture):
    own = texts(f"{mixture}_{mixture}_flan")
    assert len(own) == 39  # what the collection leaves out stays out
    assert own[1][:2] == ("What follows 1:", " 2")
    assert any(own[0][0] == "What follows 0?" + d for d in opt_iml.DELIMITERS)
    level = texts(f"{mixture}_{mixture}_niv2")
    assert any(level[5][0] == f"Add one.\n\n1{d} 2\n\n5{d}" for d in opt_iml.DELIMITERS)
    _, target, row = level[5]
    assert target == " 6"
    assert row["inputs"].tolist() == [b + 3 for b in level[5][0].encode()]
    assert row["targets"].tolist() == [*(b + 3 for b in b" 6"), 1]


def test_rows_of_a_decoder(mixture, tmp_path):
    run.prepare(mixture, modules=(), data_dir=str(tmp_path), splits=("train",), num_workers=1)
    found = read_mixture(tmp_path, mixture)
    rates = {task.rpartition("_")[2]: rate for task, rate in zip(found.tasks, found.rates)}
    assert rates == pytest.approx({"flan": 0.95 * 20 / 45, "niv2": 0.95 * 25 / 45, "text": 0.05})
    config = FeedConfig(
        mixture=mixture,
        data_dir=str(tmp_path),
        feature_lengths={"inputs": 160, "targets": 96},
        batch_size=16,
        layout="causal_lm",
        packing="greedy",  # "balanced" still holds 32 draws of every row back when we count
        document_separator="eos",
        min_segment_tokens=32,
        max_segment_tokens=64,
        prefetch_batches=0,
    )
    with Feed(config) as feed:
        names = feed.source_names
        for _ in range(8):
            batch = next(feed)
            sources = batch["decoder_source_ids"]
            text = sources == 1 + next(i for i, n in enumerate(names) if "text" in n)
            # Pretraining text has no source and loss on everything; instructions on the target.
            assert batch["decoder_loss_weights"][text].all()
            others = (sources > 0) & ~text
            assert 0 < batch["decoder_loss_weights"][others].mean() < 0.3
        stats = feed.stats()
    drawn = np.array([stats[f"segments/{n}"] for n in names])
    total = drawn.sum()
    expected = np.array([rates[n.partition("/")[0].rpartition("_")[2]] for n in names])
    sigma = np.sqrt(total * expected * (1 - expected))
    assert np.all(np.abs(drawn - total * expected) < 3 * sigma)


def test_refusals(mixture, name, words):
    register_text_task(f"{name}_noise", words, format="jsonl", vocabulary="bytes")
    with pytest.raises(ValueError, match="does not render records"):
        register_opt_iml(f"{name}_x", {"flan": [f"{name}_noise"]})
    with pytest.raises(ValueError, match="is in two benchmarks"):
        register_opt_iml(f"{name}_y", {"flan": [f"{name}_flan"], "t5": [f"{name}_flan"]})


def test_all_of_it_in_the_models_own_vocabulary(mixture, name, words, tmp_path):
    """A decoder's byte-pair tokenizer in place of the collections' own; "!" is its id 0."""
    own = vocab.load(tiny_tokenizers.qwen_like(tmp_path / "qwen"))
    corpus = FileCorpus(files=words, format="jsonl")
    text = register_pretraining(f"{name}_own_text", corpus, vocabulary=own)
    register_opt_iml(
        f"{name}_own", {"flan": [f"{name}_flan"]}, pretraining=[text.name], vocabulary=own
    )
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(f"{name}_own")):
        features = list(task.output_features.values())
        assert {from_seqio(f.vocabulary).fingerprint for f in features} == {own.fingerprint}
    task = seqio.get_mixture_or_task(f"{name}_own_{name}_flan")
    example = next(iter(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()))
    assert own.decode(example["inputs"]) == example["inputs_pretokenized"].decode()
    assert example["targets"][-1] == own.eos_id == 330
    assert 330 not in example["inputs"]


def test_conversations_in_another_vocabulary_are_other_data(name, tmp_path):
    """What their style writes is text in the first, and a token in the second."""
    own = vocab.load(tiny_tokenizers.qwen_like(tmp_path / "qwen"))
    style = ChatFormat(user=("U: ", "<|im_end|>"))
    row = {"messages": [{"role": role, "content": "a"} for role in ("user", "assistant")]}
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / "t.jsonl").write_text(json.dumps(row))
    register_chat(
        tmp_path / "talks", name=f"{name}_chat", style=style, validation=0, vocabulary="bytes"
    )
    found = []
    for key, vocabulary in (("bytes", None), ("own", own)):
        register_opt_iml(
            f"{name}_{key}",
            {"chat": [f"{name}_chat"]},
            proportions={"chat": 1.0},
            vocabulary=vocabulary,
        )
        (task,) = seqio.get_subtasks(seqio.get_mixture_or_task(f"{name}_{key}"))
        assert isinstance(task.source, RecordSource)
        found.append(identity(task.source.make_renderer))
    assert found[0] != found[1]
