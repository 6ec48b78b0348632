"""Rank classification against log-probabilities computed from the model's logits by hand."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoding import tiny
from tests.evaluation import prepared, test_layouts
from tests.models import examples
from ul2tune import sharding
from ul2tune.data import manifest
from ul2tune.data.manifest import MixtureManifest
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import run
from ul2tune.evaluation.answer import judge
from ul2tune.evaluation.ranking import Ranker
from ul2tune.evaluation.run import EvalConfig
from ul2tune.instructions import metaicl
from ul2tune.instructions.metaicl import MetaICL
from ul2tune.instructions.records import Demo, Query, Record
from ul2tune.metrics.choices import rank_choice
from ul2tune.models import base
from ul2tune.sharding import MeshConfig

# Longer than any row here, and than any of the predictor's: it pads otherwise.
LENGTH = 104
DECODER = dataclasses.replace(test_layouts.MODEL, max_length=128)
PARAMS = {model: examples.params(model, seed=1) for model in (tiny.MODEL, DECODER)}
MODELS = pytest.mark.parametrize(
    ("model", "layout"),
    [
        (tiny.MODEL, "encoder_decoder"),
        (DECODER, "causal_lm"),
        (DECODER, "prefix_lm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)


def config(layout: str, batch_size: int = 4) -> EvalConfig:
    return EvalConfig(
        inputs_length=64,
        batch_size=batch_size,
        length_buckets=(64,),
        layout=layout,
        metrics=("exact_match",),
        sampling=SamplingConfig(max_decode_length=2),
    )


@functools.cache
def logits_of(model):
    return jax.jit(lambda params, batch: base.bind(model, params).logits(batch))


def by_hand(model, layout: str, pairs: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
    """log p of each target token, in float64, from the logits of all positions."""
    rows = {name: np.zeros((len(pairs), LENGTH), np.int32) for name in "abcd"}
    starts = []
    for row, (prompt, target) in enumerate(pairs):
        if layout == "encoder_decoder":
            rows["a"][row, : len(prompt)] = prompt
            rows["b"][row, 1 : len(target)] = target[:-1]
            rows["d"][row, : len(target)] = target
            starts.append(0)
        else:
            text = [0, *prompt, *target[:-1]]
            rows["b"][row, : len(text)] = text
            rows["d"][row, : len(text)] = [*prompt, *target, 1][: len(text)]
            rows["c"][row, : len(prompt) + 1] = 1
            starts.append(len(prompt))
    # Targets only tell padding: nothing reads what they are.
    batch = {"decoder_input_tokens": rows["b"], "decoder_target_tokens": rows["d"]}
    if layout == "encoder_decoder":
        batch["encoder_input_tokens"] = rows["a"]
    if layout == "prefix_lm":
        batch["decoder_causal_attention"] = rows["c"]
    logits = logits_of(model)(PARAMS[model], {k: jnp.asarray(v) for k, v in batch.items()})
    logits_BLV = np.asarray(logits, np.float64)
    logps_BLV = logits_BLV - np.log(np.exp(logits_BLV).sum(-1, keepdims=True))
    return [
        [float(logps_BLV[row, start + i, token]) for i, token in enumerate(target)]
        for row, ((_, target), start) in enumerate(zip(pairs, starts, strict=True))
    ]


def answers_of(model, eval_set, evaluation: EvalConfig):
    mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    predictor = run.make_predictor(model, PARAMS[model], mesh, eval_set, evaluation)
    rankings = Ranker(eval_set.examples).rank(predictor)
    return [
        judge(example, "", ranking.choices, ())
        for example, ranking in zip(eval_set.examples, rankings, strict=True)
    ]


def test_a_query_without_target_tokens_is_named(tmp_path):
    (example, *_) = run.load_set(
        "instructions", str(prepared.write(tmp_path)), config("causal_lm")
    ).examples
    asked = dataclasses.replace(
        example,
        answer_choices=("yes", "no"),
        queries=(Query(inputs="a", targets="yes"), Query(inputs="b", targets="")),
        query_ids=(np.array([5], np.int32), np.array([6], np.int32)),
        choice_ids=(np.array([7], np.int32), np.array([], np.int32)),
    )
    with pytest.raises(ValueError, match=r"Example '0' of task 'first' .* choice '' has no tokens"):
        Ranker([asked], every=False)


@MODELS
def test_choices_are_ranked_by_the_probability_of_their_tokens(model, layout, tmp_path):
    folder = str(prepared.write(tmp_path))
    evaluation = config(layout)
    eval_set = run.load_set("instructions", folder, evaluation)
    ranked = [answer for answer in answers_of(model, eval_set, evaluation) if answer.choices]
    assert [len(answer.choices) for answer in ranked] == [3] * 7
    encode, eos = prepared.VOCABULARY.encode, prepared.VOCABULARY.info.eos_id
    pairs = [
        # 63 tokens of the prompt and its end; the choice and its end.
        ([*encode(a.example.inputs_text)[:63], eos], [*encode(choice), eos])
        for a in ranked
        for choice in a.example.answer_choices
    ]
    expected = by_hand(model, layout, pairs)
    found = [choice for answer in ranked for choice in answer.choices]
    for choice, tokens in zip(found, expected, strict=True):
        assert choice.tokens == pytest.approx(tokens, abs=1e-4)
        assert choice.sum == pytest.approx(sum(tokens), abs=2e-4)
        assert choice.mean == pytest.approx(sum(tokens) / len(tokens), abs=1e-4)
    for number, answer in enumerate(ranked):
        own = expected[3 * number : 3 * number + 3]
        for name, value in (("sum", sum), ("mean", lambda x: sum(x) / len(x))):
            best = answer.example.answer_choices[int(np.argmax([value(t) for t in own]))]
            assert answer.scores[f"rank_accuracy_{name}"] == (best in answer.example.references)
    other = answers_of(model, eval_set, config(layout, batch_size=5))
    for one, two in zip(ranked, (a for a in other if a.choices), strict=True):
        assert one.scores == two.scores
        assert [c.sum for c in one.choices] == pytest.approx([c.sum for c in two.choices], abs=1e-4)


def records() -> list[Record]:
    demos = (Demo(input="rain", target="bad"), Demo(input="sun", target="good"))
    return [
        Record(
            id=str(n), task="mood", input=text, targets=(target,), answer_choices=("good", "bad"),
            demos=demos, split_level="held_out", benchmark="metaicl",
            metric_names=("rank_macro_f1_mean", "rank_accuracy_mean"),
        )
        for n, (text, target) in enumerate([("snow", "bad"), ("a warm day", "good"), ("", "bad")])
    ]  # fmt: skip


def write_metaicl(folder, how: MetaICL) -> None:
    """The same task with two seeds; neither side has an end of sequence."""
    tasks = {f"mood_{seed}": seed for seed in (13, 100)}
    bare = {side: {"add_eos": False} for side in ("inputs", "targets")}
    for task, seed in tasks.items():
        chosen = records() if seed == 13 else records()[:2]
        rows = [(record, metaicl.render(record, seed, config=how)) for record in chosen]
        prepared.write_rows(
            folder, task, "validation", rows,
            fields={"render_seed": str(seed)}, features=bare, metrics=(),
        )  # fmt: skip
    mixture = MixtureManifest(name="moods", tasks=tuple(tasks), rates=(0.5, 0.5))
    manifest.write(mixture, manifest.mixture_path(folder, "moods"))


@MODELS
@pytest.mark.parametrize(
    "how", [MetaICL(method="channel"), MetaICL(pmi=True)], ids=["channel", "pmi"]
)
def test_each_choice_has_a_prompt_of_its_own(model, layout, how, tmp_path):
    write_metaicl(tmp_path, how)
    evaluation = config(layout)
    eval_set = run.load_set("moods", str(tmp_path), evaluation)
    encode = prepared.VOCABULARY.encode
    mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    predictor = run.make_predictor(model, PARAMS[model], mesh, eval_set, evaluation)
    table = run.evaluate_set(predictor, eval_set, evaluation, str(tmp_path / "out"), {})
    lines = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [*records(), *records()[:2]]
    for record, line in zip(asked, map(json.loads, lines), strict=True):
        queries = metaicl.queries(record, 0, config=how)
        losses = by_hand(model, layout, [(encode(q.inputs), encode(q.targets)) for q in queries])
        means = [-sum(tokens) / max(len(tokens), 1) for tokens in losses]
        prior = None
        if how.pmi:
            again = by_hand(model, layout, [(encode(q.prior), encode(q.targets)) for q in queries])
            prior = [-sum(tokens) / len(tokens) for tokens in again]
            assert line["log_likelihood_prior_sum"] == pytest.approx(
                [sum(tokens) for tokens in again], abs=1e-3
            )
        compared = [(p if prior else 0) - m for m, p in zip(means, prior or means)]
        assert line["prediction"] == ("good", "bad")[rank_choice(compared)]
        assert line["log_likelihood_mean"] == pytest.approx(compared, abs=1e-3)
        assert [query["inputs"] for query in line["queries"]] == [q.inputs for q in queries]
        assert "prompt" not in line  # it would show the answer
        assert line["scores"]["exact_match"] == line["scores"]["rank_accuracy_mean"]
    seeds = table["seeds"]["tasks"]["mood"]["rank_macro_f1_mean"]
    both = [table["tasks"][task]["rank_macro_f1_mean"] for task in ("mood_13", "mood_100")]
    assert seeds == {"average": pytest.approx(sum(both) / 2), "worst": min(both), "num_seeds": 2}
    assert table["headline"]["tasks"]["mood_13"]["metric"] == "rank_macro_f1_mean"
    assert predictor.num_compiled == len({len(ids) > 4 for ids in _targets(eval_set)})
    assert table["prompts"] == {}


def _targets(eval_set):
    return [ids for example in eval_set.examples for ids in example.choice_ids]
