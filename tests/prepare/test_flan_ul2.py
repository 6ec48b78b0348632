"""Instructions and UL2 denoising in one mixture: prepare -> feed, shares, mode tokens, SeqIO."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import seqio

from ul2tune.data.rates import Group, Leaf
from ul2tune.data.ul2 import preset
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.feed.feed import Feed, FeedConfig
from ul2tune.feed.texts import mixture_texts
from ul2tune.instructions.decontaminate import decontaminate
from ul2tune.instructions.records import Record, Rendered
from ul2tune.prepare import run
from ul2tune.prepare.mixtures import register_mixture, register_with_text
from ul2tune.prepare.record_tasks import register_record_task
from ul2tune.prepare.tasks import register_text_task

pytestmark = pytest.mark.tensorflow
VOCABULARY = ByteVocabulary(extra_ids=60, modes=("R", "S", "X"))
CONFIG = FeedConfig(
    mixture="",
    data_dir="",
    feature_lengths={"inputs": 256, "targets": 128},
    batch_size=8,
    packing="greedy",
    min_segment_tokens=32,
    max_segment_tokens=96,
    prefetch_batches=0,
)


@dataclass(frozen=True)
class Questions:
    splits = ("train",)

    def read(self, split: str) -> Iterator[Record]:
        for i in range(50):
            yield Record(id=str(i), task="t", input=f"document {i} of the", targets=("corpus",))

    def fingerprint(self) -> str:
        return "questions"


def ask(record: Record, seed: int) -> Rendered:
    return Rendered(inputs=f"Go on: {record.input}", targets=record.targets[0])


def make_renderer(tokenizer):
    return functools.partial(ask)


def register(name, words, percent, modes):
    register_record_task(f"{name}_ask", Questions(), make_renderer, vocabulary=VOCABULARY)
    objective = preset("ul2") if modes else preset("ul2").without_modes()
    register_text_task(
        f"{name}_text", words, format="jsonl", vocabulary=VOCABULARY, objective=objective
    )
    register_with_text(name, f"{name}_ask", f"{name}_text", percent)


@pytest.mark.parametrize(("percent", "modes"), [(10.0, True), (60.0, False)])
def test_through_prepare_and_feed(name, words, tmp_path, percent, modes):
    register(name, words, percent, modes)
    run.prepare(name, modules=(), data_dir=str(tmp_path), splits=("train",), num_workers=1)
    mode_ids = sorted(i for ids in VOCABULARY.info.mode_ids.values() for i in ids)
    announced, text_segments = 0, 0
    with Feed(replace(CONFIG, mixture=name, data_dir=str(tmp_path))) as feed:
        ask_id = 1 + feed.source_names.index(f"{name}_ask")
        for _ in range(25):
            batch = next(feed)
            starts = (batch["encoder_positions"] == 0) & (batch["encoder_segment_ids"] > 0)
            announced += int(np.isin(batch["encoder_input_tokens"][starts], mode_ids).sum())
            begins = (batch["decoder_positions"] == 0) & (batch["decoder_segment_ids"] > 0)
            text_segments += int((batch["decoder_source_ids"][begins] != ask_id).sum())
        stats = feed.stats()
    assert announced == (text_segments if modes else 0)
    total, share = stats["segments"], percent / 100
    drawn = total - stats[f"segments/{name}_ask"]
    assert drawn == text_segments
    assert abs(drawn - share * total) < 3 * np.sqrt(total * share * (1 - share))


def test_plain_seqio_mixes_the_same_tasks(name, words):
    register(name, words, 25.0, True)
    mixture = seqio.get_mixture_or_task(name)
    assert [mixture.get_rate(task) for task in mixture.tasks] == [75.0, 25.0]
    rows = mixture.get_dataset({"inputs": 256, "targets": 128}, "train", seed=1, num_epochs=1)
    found = list(rows.take(40).as_numpy_iterator())
    assert all(set(row) >= {"inputs", "targets"} for row in found)
    starts = {int(row["inputs"][0]) for row in found}
    assert starts & {i for ids in VOCABULARY.info.mode_ids.values() for i in ids}


def test_plain_seqio_reads_sizes_from_the_manifests(name, words, tmp_path):
    register(name, words, 10.0, True)
    run.prepare(name, modules=(), data_dir=str(tmp_path), splits=("train",), num_workers=1)
    children = (Leaf(name=f"{name}_ask"), Leaf(name=f"{name}_text"))
    mixture = register_mixture(
        Group(name=f"{name}_sized", children=children), data_dir=str(tmp_path)
    )
    sizes = [mixture.get_rate(task) for task in mixture.tasks]
    assert sizes[0] == 50
    assert 180 < sizes[1] < 200  # without the documents held out for validation
    unknown = register_mixture(Group(name=f"{name}_unknown", children=children[:1]))
    with pytest.raises(ValueError, match=r"number of examples .* is not known"):
        unknown.get_rate(unknown.tasks[0])


def test_its_texts_can_be_compared(name, words, tmp_path):
    register(name, words, 10.0, True)
    run.prepare(name, modules=(), data_dir=str(tmp_path), splits=("train",), num_workers=1)
    texts = list(mixture_texts(str(tmp_path), name, "train"))
    assert texts[0].name == f"{name}_ask/0"
    assert texts[0].text == "Go on: document 0 of the\ncorpus"
    assert texts[-1].text.startswith("document ")
    asked = [
        text
        for text in mixture_texts(str(tmp_path), name, "train", instances=True)
        if text.name.startswith(f"{name}_ask")
    ]
    assert asked[0].text == "document 0 of the\ncorpus"
    report = decontaminate(asked, texts[len(asked) :], ngram=5, threshold=0.5)
    # All but those whose document is held out for validation.
    assert 45 <= len(report.contaminated) <= 50
    assert report.contaminated[0].sources[0].startswith(f"{name}_text/")


def test_a_share_must_be_a_share(name, words):
    with pytest.raises(ValueError, match="percent must be in"):
        register(name, words, 100.0, True)
