"""A decoder's own vocabulary from text to answers: id 0 is a piece ("!"), texts end with id 330."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import tiny_tokenizers
from tests.decoding import tiny
from tests.evaluation.test_layouts import MODEL
from ul2tune import sharding
from ul2tune.data import vocab
from ul2tune.data.ul2 import UL2Noise, preset
from ul2tune.data.vocab_tokenizer_json import TokenizerJsonVocabulary, with_sentinels
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import examples
from ul2tune.evaluation.infer import InferConfig, answer, encode
from ul2tune.evaluation.predictor import Predictor
from ul2tune.evaluation.prompts import Prompt
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.feed import Feed
from ul2tune.instructions.records import Record, Rendered
from ul2tune.models import base
from ul2tune.prepare.record_tasks import register_record_task
from ul2tune.prepare.run import prepare
from ul2tune.prepare.tasks import register_text_task
from ul2tune.sharding import MeshConfig

pytestmark = pytest.mark.tensorflow

TEXTS = ["!", "!!!", "Wait! Stop!!", "! at the start", "nothing of the kind", "the end!"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> TokenizerJsonVocabulary:
    folder = tiny_tokenizers.qwen_like(tmp_path_factory.mktemp("qwen"))
    return with_sentinels(vocab.load(folder), 40)


@pytest.fixture(scope="module")
def data(vocabulary, tmp_path_factory) -> Path:
    """Text and instructions, prepared."""
    folder = tmp_path_factory.mktemp("data")
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for objective in ("causal_lm", "ul2r"):
        name = f"exclaimed_{objective}"
        files = str(folder / "text.jsonl")
        options = {"format": "jsonl", "vocabulary": vocabulary, "validation_fraction": 0.0}
        register_text_task(name, files, objective=objective, **options)
        prepare(name, [], str(folder), splits=["train"], num_workers=1)
    register_record_task(
        "exclaimed", Exclamations(), lambda tokenizer: render, vocabulary=vocabulary
    )
    prepare("exclaimed", [], str(folder), splits=["validation"], num_workers=1)
    return folder


class Exclamations:
    splits = ("validation",)

    def read(self, split: str) -> Iterator[Record]:
        for number, text in enumerate(TEXTS):
            yield Record(
                id=str(number),
                task="exclaimed",
                category="",
                instruction="",
                input=text,
                targets=("!",),
                answer_choices=("!", "!!"),
            )

    def fingerprint(self) -> str:
        return "1"


def render(record: Record, seed: int) -> Rendered:
    choices = record.answer_choices or ()
    return Rendered(inputs=record.input, targets=record.targets[0], answer_choices=choices)


def count_zeros(vocabulary) -> int:
    count = sum(vocabulary.encode(text).count(0) for text in TEXTS)
    assert count >= len(TEXTS) - 1
    return count


@pytest.mark.parametrize("packing", ["none", "balanced"])
def test_every_zero_of_a_text_reaches_the_loss(vocabulary, data, packing):
    config = FeedConfig(
        mixture="exclaimed_causal_lm",
        data_dir=str(data),
        feature_lengths={"targets": 40},
        batch_size=2,
        layout="causal_lm",
        packing=packing,
        min_segment_tokens=1,
        max_segment_tokens=30,
        cross_documents=False,
        num_epochs=1,
    )
    found = []
    with Feed(config) as feed:
        for batch in feed:
            ids_BL, tokens_BL = batch["decoder_segment_ids"], batch["decoder_target_tokens"]
            np.testing.assert_array_equal(batch["decoder_loss_weights"], ids_BL > 0)
            assert not tokens_BL[ids_BL == 0].any()
            for row_L, row_ids_L in zip(tokens_BL, ids_BL, strict=True):
                segments = [row_L[row_ids_L == n] for n in range(1, row_ids_L.max() + 1)]
                assert all(segment[-1] == vocabulary.eos_id for segment in segments)
                found += [segment[:-1].tolist() for segment in segments]
    # A segment ends where a document does; together they are the texts, exclamation by exclamation.
    assert sum(map(len, found)) == sum(len(vocabulary.encode(text)) for text in TEXTS)
    if packing == "none":
        assert sorted(map(vocabulary.decode, found)) == sorted(TEXTS)
    assert sum(segment.count(0) for segment in found) == count_zeros(vocabulary)


def test_denoising_keeps_every_zero(vocabulary, data):
    noise = UL2Noise(preset("ul2r"), vocabulary.info)
    config = FeedConfig(
        mixture="exclaimed_ul2r",
        data_dir=str(data),
        feature_lengths={"inputs": 24, "targets": 24},
        batch_size=2,
        layout="prefix_lm",
        packing="balanced",
        min_segment_tokens=1,
        max_segment_tokens=12,
        num_epochs=1,
    )
    zeros = 0
    with Feed(config) as feed:
        for batch in feed:
            for row in range(2):
                ids_L = batch["decoder_segment_ids"][row]
                for number in range(1, ids_L.max() + 1):
                    here = ids_L == number
                    loss_L = batch["decoder_loss_weights"][row][here] > 0
                    tokens_L = batch["decoder_target_tokens"][row][here]
                    denoiser = int(batch["decoder_source_ids"][row][here][0]) - 1
                    raw = noise.undo(tokens_L[~loss_L], tokens_L[loss_L], denoiser)
                    zeros += int((raw == 0).sum())
    assert zeros == count_zeros(vocabulary)


def make_predictor(vocabulary, config) -> Predictor:
    """A model that finds all tokens equally likely: greedy decoding takes the first, 0."""
    model = dataclasses.replace(MODEL, vocab_size=vocabulary.rows)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), base.abstract_params(model))
    return Predictor(
        model,
        params,
        sharding.make_mesh(MeshConfig()),
        info=vocabulary.info,
        num_ids=vocabulary.size,
        batch_size=8,
        length_buckets=(config.inputs_length,),
        layout="causal_lm",
    )


def test_prompts_and_answers_made_of_zeros(vocabulary, data):
    config = InferConfig(
        sampling=SamplingConfig(max_decode_length=4), inputs_length=16, append_eos=False
    )
    predictor = make_predictor(vocabulary, config)
    found = examples.load("exclaimed", str(data), split="validation", inputs_length=16)
    assert found.vocabulary.fingerprint == vocabulary.fingerprint
    prompts = [example.inputs_S for example in found.examples]
    assert prompts[0].tolist() == [0, vocabulary.eos_id]
    assert [e.inputs_text for e in found.examples] == TEXTS
    assert [ids.tolist()[-1] for ids in found.examples[0].choice_ids] == [330, 330]
    scores = predictor.score(
        [prompts[0], prompts[1]], [found.examples[0].choice_ids[i] for i in (0, 1)]
    )
    # Each token costs the same, so what counts is how many there are: "!" and the end; "!!" …
    assert [score.num_tokens for score in scores] == [2, len(found.examples[0].choice_ids[1])]
    np.testing.assert_allclose([s.mean for s in scores], -np.log(vocabulary.rows), rtol=1e-6)
    asked = [Prompt(line=n, id=str(n), text=text) for n, text in enumerate(("!!!", "!"), start=1)]
    questions = [encode(prompt, MODEL, found.vocabulary, config) for prompt in asked]
    lines = answer(predictor, found.vocabulary, questions, config, lambda count: None)
    assert [line["prediction"] for line in lines] == ["!!!!", "!!!!"]
    assert not any(line["truncated"] for line in lines)


def test_a_decoder_reads_its_start_once(tmp_path):
    found = vocab.load(tiny_tokenizers.gemma_like(tmp_path))
    said = Prompt(line=1, id="1", text="<bos><bos>the end")

    def count(model: base.ModelConfig, specials: bool = True) -> int:
        config = InferConfig(append_eos=False, special_tokens=specials)
        return encode(said, model, found, config).ids_S.tolist().count(found.bos_id)

    assert count(dataclasses.replace(MODEL, start_id=found.bos_id)) == 1  # and one before them
    assert count(MODEL) == 1  # of a model that starts otherwise: data are without it too
    assert count(tiny.MODEL) == 2  # an encoder reads what it is given
    assert count(MODEL, specials=False) == 0  # plain characters, all kept


def test_a_start_that_the_tokenizer_does_not_name(vocabulary):
    """Qwen starts with <|endoftext|>, by its config.json alone."""
    assert vocabulary.bos_id is None
    config = InferConfig(append_eos=False, special_tokens=True)

    def ids(start_id: int, text: str) -> list[int]:
        said = Prompt(line=1, id="1", text=text)
        model = dataclasses.replace(MODEL, start_id=start_id, vocab_size=vocabulary.rows)
        return encode(said, model, vocabulary, config).ids_S.tolist()

    (end,) = vocabulary.encode("<|endoftext|>", specials=True)
    assert ids(end, "<|endoftext|>!") == ids(end, "!") == [0]
    assert ids(end, "<|im_end|>!") == [end + 1, 0]
    assert ids(0, "!") == [0]  # text, whatever the model starts with
    assert ids(end, "<|endoftext|>") == ids(0, "") == []


def test_encoder_decoders_say_that_they_cannot(vocabulary):
    model = dataclasses.replace(tiny.MODEL, vocab_size=vocabulary.rows)
    with pytest.raises(ValueError, match="Id 0 is text in this vocabulary"):
        Predictor(
            model,
            {},
            sharding.make_mesh(MeshConfig()),
            info=vocabulary.info,
            num_ids=vocabulary.size,
            batch_size=8,
            length_buckets=(16,),
        )
