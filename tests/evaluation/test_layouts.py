"""Prompts and scores of decoder-only models, from ids to answers."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from tests.checkpoints import saving
from tests.checkpoints.test_vocabulary import saved
from tests.decoding import tiny
from tests.evaluation import prepared
from ul2tune import sharding
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import infer, layouts, run
from ul2tune.evaluation.predictor import Predictor
from ul2tune.models import base
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.rotary import Rope
from ul2tune.sharding import MeshConfig

MODEL = DecoderConfig(
    vocab_size=264,
    d_model=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    d_ff=32,
    max_length=64,
    rope=Rope(theta=100.0),
    attention_pattern="LG",
    sliding_window=4,
    dtype="float32",
)
PROMPT, TARGET = np.array([7, 8, 5]), np.array([3, 1])


def test_examples_of_the_docstring():
    prompt = layouts.prompts("prefix_lm", [PROMPT], 2, 5)
    assert {name: rows.tolist() for name, rows in prompt.items()} == {
        "decoder_input_tokens": [[0, 7, 8, 5, 0, 0], [0] * 6],
        "decoder_segment_ids": [[1, 1, 1, 1, 0, 0], [0] * 6],
        "decoder_causal_attention": [[1, 1, 1, 1, 0, 0], [0] * 6],
    }
    assert "decoder_causal_attention" not in layouts.prompts("causal_lm", [PROMPT], 2, 5)
    pair = layouts.pairs("prefix_lm", [PROMPT], [TARGET], 1, (5, 4))
    assert pair["decoder_input_tokens"].tolist() == [[0, 7, 8, 5, 3, 1, 0, 0, 0]]
    assert pair["decoder_causal_attention"].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0, 0]]
    assert pair["decoder_loss_weights"].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0]]
    both = layouts.pairs("encoder_decoder", [PROMPT], [TARGET], 1, (5, 4))
    assert both["encoder_input_tokens"].tolist() == [[7, 8, 5, 0, 0]]
    assert both["decoder_input_tokens"].tolist() == [[0, 3, 1, 0]]
    choices = [TARGET, PROMPT, TARGET[:1], TARGET[:0]]
    shared = layouts.pairs("encoder_decoder", [PROMPT] * 2 + [TARGET] * 2, choices, 6, (5, 4), 2)
    assert shared["encoder_input_tokens"].tolist() == [[7, 8, 5, 0, 0], [3, 1, 0, 0, 0], [0] * 5]
    assert shared["decoder_target_tokens"].tolist() == [
        [3, 1, 0, 0], [7, 8, 5, 0], [3, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4
    ]  # fmt: skip
    only = layouts.prompts("encoder_decoder", [PROMPT], 2, 5)
    assert {name: rows.tolist() for name, rows in only.items()} == {
        "encoder_input_tokens": [[7, 8, 5, 0, 0], [0] * 5]
    }


def test_the_layout_is_the_models():
    assert layouts.choose(tiny.MODEL, None) == "encoder_decoder"
    assert layouts.choose(MODEL, "causal_lm") == "causal_lm"
    flags = "--gin.LAYOUT=prefix_lm or --gin.LAYOUT=causal_lm"
    with pytest.raises(ValueError, match=f"layout = None is not for DecoderConfig: .*{flags}"):
        layouts.choose(MODEL, None)
    with pytest.raises(ValueError, match=r"layout = 'causal_lm' is not for T5Config"):
        layouts.choose(tiny.MODEL, "causal_lm")


def test_the_layout_is_the_checkpoints(tmp_path, caplog):
    meta = {"config": {"data": {"layout": "prefix_lm"}}}
    trained, imported = saved(tmp_path / "trained", meta), saved(tmp_path / "imported", {})
    assert layouts.of_checkpoint(MODEL, None, trained) == "prefix_lm"
    assert layouts.of_checkpoint(MODEL, "prefix_lm", trained) == "prefix_lm"
    assert layouts.of_checkpoint(MODEL, "prefix_lm", imported) == "prefix_lm"
    # What `infer` wrote for those with one layout stays resumable: nothing is filled in.
    assert layouts.of_checkpoint(tiny.MODEL, None, imported) is None
    assert not caplog.records
    assert layouts.of_checkpoint(MODEL, "causal_lm", trained) == "causal_lm"
    assert "3 was trained with LAYOUT = 'prefix_lm'; it is prompted in 'causal_lm'" in caplog.text
    with pytest.raises(ValueError, match=r"imported.* does not say .*--gin\.LAYOUT=prefix_lm or "):
        layouts.of_checkpoint(MODEL, None, imported)


def test_a_checkpoint_is_asked_as_it_was_trained(tmp_path):
    params = base.init_params(MODEL, jax.random.key(0))
    saving.save(tmp_path, 3, {"params": params}, {"config": {"data": {"layout": "prefix_lm"}}})
    sampling, mesh = SamplingConfig(max_decode_length=2), MeshConfig()
    asked, answers = tmp_path / "asked.txt", tmp_path / "answers.jsonl"
    asked.write_text("hello\n")
    paths = (str(asked), str(answers))
    how = infer.InferConfig(sampling=sampling, inputs_length=32)
    infer.infer(MODEL, prepared.VOCABULARY, str(tmp_path), mesh, *paths, how)
    settings = json.loads((tmp_path / "answers.jsonl.settings.json").read_text())
    assert settings["layout"] == "prefix_lm"
    data_dir, out = str(prepared.write(tmp_path / "data")), str(tmp_path / "out")
    config = run.EvalConfig(
        sampling=sampling,
        inputs_length=32,
        rank_choices=False,
        max_examples_per_task=1,
    )
    table = run.evaluate(MODEL, "instructions", data_dir, str(tmp_path), mesh, out, config)
    assert table["layout"] == "prefix_lm"


def predictor(layout: str, *, batch_size: int, buckets=(8,), mesh=None) -> Predictor:
    mesh = sharding.make_mesh(mesh or MeshConfig(fsdp=1), jax.devices()[: 1 if mesh is None else 8])
    return Predictor(
        MODEL,
        base.init_params(MODEL, jax.random.key(0)),
        mesh,
        info=prepared.VOCABULARY.info,
        num_ids=prepared.VOCABULARY.size,
        batch_size=batch_size,
        length_buckets=buckets,
        layout=layout,
    )


@pytest.mark.parametrize("layout", ["prefix_lm", "causal_lm"])
def test_answers_do_not_depend_on_the_batch(layout):
    rng = np.random.default_rng(0)
    # The empty prompt too, and one that ends with id 0.
    inputs = [rng.integers(3, 259, n).astype(np.int32) for n in (0, 1, 3, 8)]
    inputs.append(np.array([9, 0], np.int32))
    names = [str(n) for n in range(len(inputs))]
    targets = [rng.integers(3, 259, n).astype(np.int32) for n in (1, 2, 4, 3, 2)]
    sampling = SamplingConfig(max_decode_length=6)
    many = predictor(layout, batch_size=3)
    answers, scores = many.generate(inputs, names, sampling), many.score(inputs, targets)
    single = predictor(layout, batch_size=1, buckets=(16,))
    for answer, one in zip(answers, single.generate(inputs, names, sampling), strict=True):
        np.testing.assert_array_equal(answer, one)
    for score, one in zip(scores, single.score(inputs, targets), strict=True):
        assert score.sum == pytest.approx(one.sum, abs=1e-4)
        assert sum(score.tokens) == pytest.approx(score.sum, abs=1e-4)
    assert [score.num_tokens for score in scores] == list(map(len, targets))
    assert [len(score.tokens) for score in scores] == list(map(len, targets))
    assert (answers[-1] != 0).any()
    assert len({tuple(answer) for answer in answers}) > 3


def test_greedy_answers_are_the_likeliest_first_tokens():
    """Generation and scoring see the same prompt: one follows from the other."""
    model = predictor("prefix_lm", batch_size=4, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    prompt = np.array([5, 9, 7, 30], np.int32)
    answer = model.generate([prompt], ["x"], SamplingConfig(max_decode_length=2))[0]
    rivals = [int(answer[0]), 77, 200, 3]
    scores = model.score([prompt] * 4, [np.array([token], np.int32) for token in rivals])
    assert max(scores, key=lambda score: score.sum) is scores[0]
