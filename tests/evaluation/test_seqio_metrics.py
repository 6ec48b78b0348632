"""Tasks of plain SeqIO are scored as SeqIO's own Evaluator scores them."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import warnings

with warnings.catch_warnings():  # of SeqIO's imports
    warnings.simplefilter("ignore")
    from tests.evaluation import seqio_tasks

import jax
import numpy as np
import pytest
import seqio

from tests.decoding import tiny
from tests.evaluation import test_ranking
from ul2tune import sharding
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import groups, preflight, run
from ul2tune.evaluation.answer import judge
from ul2tune.evaluation.predictor import LogLikelihood
from ul2tune.evaluation.run import EvalConfig
from ul2tune.prepare.run import prepare
from ul2tune.sharding import MeshConfig

pytestmark = pytest.mark.tensorflow

CONFIG = EvalConfig(inputs_length=64, metrics=("exact_match",))


@pytest.fixture
def task():
    """Registers one of `seqio_tasks` by its name, and forgets it after the test."""
    names = []

    def register(name, rows=None, **changes):
        own, scoring, _ = seqio_tasks.TASKS[name]
        names.append(f"seqio_{name}")
        seqio_tasks.register(names[-1], rows or own, **{**scoring, **changes})
        return names[-1]

    yield register
    for name in names:
        seqio.TaskRegistry.remove(name)


def load(name, folder, config=CONFIG):
    prepare(name, [], str(folder), splits=("validation",), num_workers=1)
    return run.load_set(name, str(folder), config)


@pytest.mark.parametrize("name", seqio_tasks.TASKS)
def test_metrics_are_seqios(task, name, tmp_path):
    texts = seqio_tasks.TASKS[name][2]
    eval_set = load(task(name), tmp_path)
    encode, eos = eval_set.vocabulary.encode, eval_set.vocabulary.info.eos_id
    ids = [[*encode(text), eos] for text in texts]
    scores = [-1.5 - n % 3 - n / 8 for n in range(len(texts))]
    answers = [
        dataclasses.replace(
            judge(example, example.said(eval_set.vocabulary, said), (), ()),
            target=LogLikelihood(sum=score, num_tokens=1),
        )
        for example, said, score in zip(eval_set.examples, ids, scores, strict=True)
    ]
    found = groups.declared(answers, eval_set.metric_functions[f"seqio_{name}"])
    expected = seqio_tasks.in_seqio(f"seqio_{name}", ids.__getitem__, scores)
    assert expected
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("name", seqio_tasks.TASKS)
def test_a_postprocessor_gets_seqios_example(task, name, tmp_path):
    registered = task(name)
    found = [example.seqio.element for example in load(registered, tmp_path).examples]
    dataset = seqio.get_mixture_or_task(registered).get_dataset(
        {"inputs": 64, "targets": 64}, split="validation", shuffle=False
    )
    for mine, theirs in zip(found, dataset.as_numpy_iterator(), strict=True):
        assert mine.keys() - {"inputs_text", "targets_text"} == theirs.keys()
        for key, value in theirs.items():
            assert type(mine[key]) is type(value) or np.isscalar(value), key
            assert np.asarray(mine[key]).dtype.kind == np.asarray(value).dtype.kind, key
            np.testing.assert_array_equal(mine[key], value, err_msg=key)


@test_ranking.MODELS
def test_scores_are_likelihoods_of_targets(task, model, layout, tmp_path):
    """Of the models of `test_ranking`, by hand; nothing is generated that no metric wants."""
    name = task("choices")
    config = dataclasses.replace(test_ranking.config(layout), sampling=SamplingConfig())
    eval_set = load(name, tmp_path / "data", config)
    params = test_ranking.PARAMS[model]
    mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    predictor = run.make_predictor(model, params, mesh, eval_set, config)
    preflight.check_model(eval_set, model, config)
    table = run.evaluate_set(predictor, eval_set, config, str(tmp_path / "out"), {})
    lines = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [
        (example.inputs_S.tolist(), [*eval_set.vocabulary.encode(row["targets"]), 1])
        for example, row in zip(eval_set.examples, seqio_tasks.TASKS["choices"][0], strict=True)
    ]
    scores = [sum(tokens) for tokens in test_ranking.by_hand(model, layout, pairs)]
    found = [json.loads(line)["log_likelihood_target"] for line in lines]
    assert found == pytest.approx(scores, abs=1e-3)
    expected = seqio_tasks.in_seqio(name, lambda n: [1], scores)
    assert table["tasks"][name] == pytest.approx({"num_examples": 5, **expected}, abs=1e-3)
    assert table["mean_over_tasks"] == pytest.approx(expected, abs=1e-3)
    assert predictor.num_compiled == 2  # targets of up to 4 tokens and of up to 8, no generation


def test_a_target_must_fit_the_model(task, tmp_path):
    name = task("choices", seqio_tasks.rows(targets=["a" * 65], idx=[[0, 0]], is_correct=[True]))
    config = test_ranking.config("causal_lm")
    eval_set = load(name, tmp_path, config)
    for room in (64 + 128, 64 + 127):
        model = dataclasses.replace(test_ranking.DECODER, max_length=room)
        if room == 64 + 128:
            preflight.check_model(eval_set, model, config)
            continue
        expected = f"^The prompt of example '0' of task '{name}' with its target is padded to 64 "
        with pytest.raises(ValueError, match=expected):
            preflight.check_model(eval_set, model, config)


def test_answers_and_likelihoods_of_one_task(task, tmp_path):
    config = dataclasses.replace(test_ranking.config("encoder_decoder"), rank_choices=False)
    eval_set = load(task("both"), tmp_path, config)
    mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    predictor = run.make_predictor(tiny.MODEL, tiny.params(), mesh, eval_set, config)
    answers = run.answer_all(predictor, eval_set, config)
    assert all(answer.target and answer.scores.keys() == {"exact_match"} for answer in answers)
    found = groups.declared(answers, eval_set.metric_functions["seqio_both"])
    assert found.keys() == {"accuracy", "log_likelihood"}


def no_examples(text):
    return text


def asks_for_a_field(text, example, is_target):
    return example["answers"]


def only_of_words(text, **unused):
    return text.split()[0]


def only_of_targets(text, example, is_target):
    assert is_target
    return text


def returns_nothing(text, **unused):
    seqio_tasks.string_label_to_class_id(text, seqio_tasks.LABELS)


def no_numbers(targets, predictions):
    return [1.0]


def another_accuracy(targets, predictions):
    return {"accuracy": 1.0}


def spoils(targets, predictions):
    number = float(sum(targets) + 10 * sum(predictions))
    targets[:] = predictions[:] = []
    return {"sums": number}


def spoils_again(targets, predictions):
    return {f"{name}_again": number for name, number in spoils(targets, predictions).items()}


def test_a_metric_may_change_what_it_is_given(task, tmp_path):
    texts = seqio_tasks.TASKS["classes"][2]
    eval_set = load(task("classes", metric_fns=[spoils, spoils_again]), tmp_path)
    ids = [[*eval_set.vocabulary.encode(text), 1] for text in texts]
    answers = [judge(e, text, (), ()) for e, text in zip(eval_set.examples, texts, strict=True)]
    found = groups.declared(answers, eval_set.metric_functions["seqio_classes"])
    assert found["sums"] == found["sums_again"]
    assert found == seqio_tasks.in_seqio("seqio_classes", ids.__getitem__, [-1.0] * len(ids))


def counts(targets, predictions):
    return {"num_examples": len(targets)}


def fails(targets, scores):
    return {"x": scores / 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"postprocess_fn": no_examples},
            "its postprocess_fn 'tests.evaluation.test_seqio_metrics:no_examples' fails on the "
            r"target 'no' of example '0' \(TypeError: .* unexpected keyword argument 'example'\)",
        ),
        (
            {"postprocess_fn": asks_for_a_field},
            r"asks_for_a_field' fails .* \(KeyError: 'answers'\)\. Its `example` has the fields "
            r"inputs, inputs_pretokenized, .*targets_pretokenized",
        ),
        ({"metric_fns": [no_numbers]}, r"no_numbers' gives \[1.0\]; it must give numbers by"),
        (
            {"metric_fns": [seqio_tasks.accuracy, another_accuracy]},
            "another_accuracy' gives 'accuracy', as another metric function of the task does",
        ),
        ({"metric_fns": [counts]}, "one of its metric functions gives 'num_examples', which is"),
        (
            {"metric_fns": [fails], "postprocess_fn": None},
            r"its metric function 'tests.evaluation.test_seqio_metrics:fails' fails \(",
        ),
    ],
)
def test_what_a_user_may_get_wrong_is_told_before_the_checkpoint(task, changes, message, tmp_path):
    name = task("classes", **changes)
    load(name, tmp_path)
    with (
        np.errstate(all="raise"),
        pytest.raises(ValueError, match=f"^Task '{name}' cannot be scored: .*{message}"),
    ):
        run.evaluate(
            tiny.MODEL, name, str(tmp_path), "no checkpoint", MeshConfig(), str(tmp_path), CONFIG
        )


@pytest.mark.parametrize("what", ["postprocess_fn", "metric function"])
def test_a_function_that_is_not_there_any_more(task, what, tmp_path, monkeypatch):
    name = task("classes")
    eval_set = load(name, tmp_path)
    function = {"postprocess_fn": "string_label_to_class_id", "metric function": "accuracy"}[what]
    monkeypatch.delattr(seqio_tasks, function)
    expected = (
        f"^Task '{name}' cannot be scored: its {what} 'tests.evaluation.seqio_tasks:{function}' "
        f"cannot be imported .AttributeError: .* Call `evaluate` where `prepare` finds the module"
    )
    with pytest.raises(ValueError, match=expected):
        preflight.check_metrics(eval_set, ())


@pytest.mark.parametrize(
    ("postprocess", "warned"),
    [
        (seqio_tasks.TASKS["classes"][1]["postprocess_fn"], None),
        (only_of_words, r"fails on the answer '' .*IndexError.* Should the model give an empty"),
        (
            returns_nothing,
            r"empty answers \(accuracy = 100\)\. Does its postprocess_fn make the same",
        ),
    ],
)
def test_what_may_be_meant_is_warned_of(task, postprocess, warned, tmp_path, caplog):
    eval_set = load(task("classes", postprocess_fn=postprocess), tmp_path)
    preflight.check_metrics(eval_set, ())
    found = [record.getMessage() for record in caplog.records if record.name.endswith("preflight")]
    assert len(found) == (warned is not None)
    assert not warned or re.search(warned, found[0])


def test_metrics_of_scores_have_targets_alone_postprocessed(task, tmp_path, caplog):
    scoring = {"postprocess_fn": only_of_targets, "metric_fns": [seqio_tasks.log_likelihood]}
    preflight.check_metrics(load(task("classes", **scoring), tmp_path), ())
    assert not [record for record in caplog.records if record.name.endswith("preflight")]


def test_tensorflow_of_a_users_module_gets_no_device(task, tmp_path, monkeypatch):
    """JAX owns their memory."""
    asked = []
    monkeypatch.setattr(
        sys.modules["tensorflow"].config, "set_visible_devices", lambda *args: asked.append(args)
    )
    preflight.check_metrics(load(task("classes"), tmp_path), ())
    assert set(map(str, asked)) == {"([], 'GPU')"}
