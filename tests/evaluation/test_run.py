"""`evaluate` from checkpoint to files: the same on any mesh and with any batch size."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import interrupting
from tests.checkpoints import saving
from tests.decoding import tiny
from tests.evaluation import prepared
from ul2tune import sharding
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import groups, report, run
from ul2tune.evaluation.answer import RANK_FIRST, RANK_MEAN, RANK_SUM, Answer, judge
from ul2tune.evaluation.eval_set import EvalExample, EvalSet
from ul2tune.evaluation.hook import EvaluationHook
from ul2tune.evaluation.predictor import LogLikelihood, length_buckets
from ul2tune.evaluation.run import EvalConfig
from ul2tune.instructions.superni import split_hash
from ul2tune.metrics import text
from ul2tune.models import base
from ul2tune.sharding import MeshConfig
from ul2tune.status_line import Progress
from ul2tune.types import HookContext

ONE = MeshConfig(data=1, fsdp=1, tensor=1)
SAMPLING = SamplingConfig(max_decode_length=6, temperature=0.7, top_k=40, seed=3)
EVAL = EvalConfig(
    inputs_length=64,
    batch_size=4,
    sampling=SAMPLING,
    length_buckets=(32, 64),
    metrics=("token_f1",),
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    return str(prepared.write(tmp_path_factory.mktemp("prepared")))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    saving.save(folder, 7, {"params": tiny.params()})
    return str(folder)


def predictions(folder) -> list[dict]:
    lines = (Path(folder) / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def on_mesh(mesh_config: MeshConfig, data_dir: str, output: Path, config: EvalConfig, devices=None):
    """`evaluate` without the checkpoint, on some of the devices."""
    mesh = sharding.make_mesh(mesh_config, devices)
    shardings = sharding.param_shardings(
        base.abstract_params(tiny.MODEL), base.param_axes(tiny.MODEL), mesh
    )
    params = jax.device_put(jax.device_get(tiny.params()), shardings)
    eval_set = run.load_set("instructions", data_dir, config)
    predictor = run.make_predictor(tiny.MODEL, params, mesh, eval_set, config)
    table = run.evaluate_set(predictor, eval_set, config, str(output), {})
    return predictor, table


@pytest.fixture(scope="module")
def reference(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    predictor, table = on_mesh(ONE, data_dir, folder, EVAL, jax.devices()[:1])
    return folder, predictor, table


def test_writes_all_that_made_a_score(reference):
    folder, _, table = reference
    rows = predictions(folder)
    assert [(row["task"], row["id"]) for row in rows] == [
        (task, str(i)) for task in prepared.TASKS for i in range(7)
    ]
    for row in rows:
        assert row["prompt"].startswith(row["task"])
        assert row["split_hash"] == table["split_hash"]
        expected = text.score_token_f1(row["prediction"], row["references"])
        assert row["scores"]["token_f1"] == expected
    ranked = [row for row in rows if row["task"] == "is_long"]
    assert all(len(row["log_likelihood_sum"]) == 3 for row in ranked)
    for row in ranked:
        for total, mean, choice in zip(
            row["log_likelihood_sum"], row["log_likelihood_mean"], row["answer_choices"]
        ):
            assert mean == pytest.approx(total / (len(choice) + 1), abs=1e-4)
    assert all(row["demo_ids"] == [] and row["template_id"] == "" for row in rows)
    ids = [str(i) for i in range(7)]
    assert table["split_hashes"] == dict.fromkeys(prepared.TASKS, split_hash(ids))
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(table))
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "predictions.jsonl"]


def test_compiles_one_program_per_length(reference):
    _, predictor, _ = reference
    # Generation and scoring, both at 32 and at 64 inputs; all choices have at most 4 tokens.
    assert predictor.num_compiled == 4


@pytest.mark.parametrize(
    ("mesh", "batch_size"),
    [
        (MeshConfig(data=8, fsdp=1, tensor=1), 16),
        (MeshConfig(data=1, fsdp=2, tensor=4), 3),
    ],
)
def test_mesh_and_batch_size_change_nothing(reference, data_dir, tmp_path, mesh, batch_size):
    folder, _, table = reference
    config = EvalConfig(**{**vars(EVAL), "batch_size": batch_size})
    _, other = on_mesh(mesh, data_dir, tmp_path, config)
    for mine, theirs in zip(predictions(tmp_path), predictions(folder), strict=True):
        for name in (f"log_likelihood_{kind}" for kind in ("sum", "mean", "first_token")):
            assert mine.pop(name, []) == pytest.approx(theirs.pop(name, []), abs=2e-4)
        assert mine == theirs
    assert other == table


def test_the_root_function_and_the_hook_agree(data_dir, model_dir, tmp_path):
    config = EvalConfig(**{**vars(EVAL), "rank_choices": False, "length_buckets": (64,)})
    mesh = MeshConfig()
    table = run.evaluate(
        tiny.MODEL, "instructions", data_dir, model_dir, mesh, str(tmp_path / "out"), config
    )
    assert table["step"] == 7
    assert RANK_SUM not in table["overall"]
    hook = EvaluationHook(10, ("instructions",), data_dir, config)
    context = HookContext(
        step=20,
        params=tiny.params(),
        model=tiny.MODEL,
        mesh=sharding.make_mesh(mesh),
        model_dir=str(tmp_path / "run"),
    )
    scalars = hook(context)
    assert scalars == {
        "eval/instructions/token_f1": table["overall"]["token_f1"],
        "eval/instructions/mean_length": table["mean_over_tasks"]["mean_length"],
    }
    folder = tmp_path / "run" / "evaluation" / "instructions" / "step_20"
    assert predictions(folder) == predictions(tmp_path / "out")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("after", [1, 15, 36])
def test_an_interrupt_that_a_callback_swallows_comes_before_the_next_batch(
    data_dir, model_dir, tmp_path, monkeypatch, after
):
    """While 14 answers are generated, then 21 choices ranked, then 14 answers scored."""
    total = 0

    def advance(self, count):
        nonlocal total
        assert total < after
        total += count
        if total >= after:
            interrupting.collect()

    monkeypatch.setattr(Progress, "advance", advance)
    arguments = ("instructions", data_dir, model_dir, MeshConfig(), str(tmp_path / "out"), EVAL)
    with pytest.raises(KeyboardInterrupt):
        run.evaluate(tiny.MODEL, *arguments)
    assert not (tmp_path / "out").exists()


def answer(task, category, scores):
    example = EvalExample(
        task=task,
        id="1",
        category=category,
        inputs_S=None,  # type: ignore[arg-type]
        inputs_text="",
        references=("a",),
        baselines={"copy_input": "a"},
    )
    return Answer(example=example, text="xy", choices=(), scores=scores)


def test_means_over_examples_tasks_and_categories_differ():
    answers = [
        answer("t1", "c1", {"exact_match": 1.0}),
        answer("t1", "c1", {"exact_match": 1.0}),
        answer("t2", "c1", {"exact_match": 0.0, "rank_accuracy_sum": 1.0}),
        answer("t3", "c2", {"exact_match": 0.0}),
    ]
    eval_set = EvalSet(
        examples=tuple(a.example for a in answers),
        vocabulary=prepared.VOCABULARY,
        metric_functions=dict.fromkeys(
            ("t1", "t2", "t3"),
            ("ul2tune.metrics.registry.rouge_l", "tests.evaluation.prepared.mean_length"),
        ),
        fingerprints={},
        split_hash="h",
    )
    table = report.summarize(answers, eval_set, ("exact_match",))
    assert table["overall"] == {
        "num_examples": 4, "exact_match": 50.0, "rank_accuracy_sum": 100.0
    }  # fmt: skip
    assert table["mean_over_tasks"]["exact_match"] == pytest.approx(100 / 3)
    assert table["mean_over_categories"]["exact_match"] == pytest.approx(100 / 3)
    assert table["categories"]["c1"]["exact_match"] == pytest.approx(200 / 3)
    assert table["tasks"]["t1"] == {"num_examples": 2, "exact_match": 100.0, "mean_length": 2.0}
    assert table["baselines"] == {"copy_input": {"num_examples": 4, "exact_match": 100.0}}
    assert [line.split() for line in report.lines(table)[:-1]] == [
        ["percent", "n", "exact_match", "rank_accuracy_sum", "mean_length"],
        ["t1", "2", "100.0", "–", "2.0"],
        ["t2", "1", "0.0", "100.0", "2.0"],
        ["t3", "1", "0.0", "–", "2.0"],
        ["baseline", "copy_input", "4", "100.0", "–", "–"],
        ["mean", "over", "tasks", "33.3", "100.0", "2.0"],
        ["all", "examples", "4", "50.0", "100.0", "–"],
    ]
    assert "4 prompts 0 were cut" in report.lines(table)[-1]


def test_scores_spread_over_the_prompts_of_a_task():
    asked = [("t_a", 1.0), ("t_a", 0.0), ("t_b", 1.0), ("t_c", 0.0), ("alone", 1.0)]
    answers = []
    for number, (task, score) in enumerate(asked):
        one = answer(task, "c", {"exact_match": score})
        record_task = "" if task == "alone" else "t"
        example = dataclasses.replace(one.example, id=str(number), record_task=record_task)
        answers.append(dataclasses.replace(one, example=example))
    table = report._over_prompts(answers)
    assert list(table) == ["t"]
    assert table["t"]["exact_match"] == {
        "num_prompts": 3,
        "mean": 50.0,
        "median": 50.0,
        "first_quartile": 25.0,
        "third_quartile": 75.0,
        "minimum": 0.0,
        "maximum": 100.0,
    }


def test_ranking_reports_sum_and_mean():
    example = answer("t", "c", {}).example
    example = EvalExample(
        **{**vars(example), "references": ("long one",), "answer_choices": ("no", " long one ")}
    )
    choices = [LogLikelihood(sum=-4.0, num_tokens=2), LogLikelihood(sum=-6.0, num_tokens=6)]
    scores = judge(example, "no", choices, ()).scores
    assert scores == {RANK_SUM: 0.0, RANK_MEAN: 1.0}


def test_class_wise_f1_of_tasks_whose_examples_share_their_choices():
    answers = []
    for right, sums in (("a", (-1.0, -2.0)), ("a", (-3.0, -2.0)), ("b", (-3.0, -2.0))):
        example = dataclasses.replace(
            answer("t", "c", {}).example, references=(right,), answer_choices=(" a", " b")
        )
        choices = tuple(LogLikelihood(sum=s, num_tokens=n) for s, n in zip(sums, (1, 4)))
        answers.append(Answer(example=example, text="", choices=choices, scores={}))
    found = groups.macro_f1(answers)
    assert found["rank_macro_f1_sum"] == pytest.approx(100 * 2 / 3)  # a, b, b
    assert found["rank_macro_f1_mean"] == pytest.approx(100 * 0.25)  # b, b, b
    other = dataclasses.replace(answers[0].example, answer_choices=(" a", " c"))
    assert groups.macro_f1([*answers, dataclasses.replace(answers[0], example=other)]) == {}


@pytest.mark.parametrize(
    ("choices", "position"),
    [
        (((36,), (37,)), 0),
        (((5, 36), (5, 37, 38)), 1),  # the space before the letter
        (((5, 36), (5, 36, 7)), None),  # one is the start of the other
        (((36, 1), (37, 1), (36, 2)), None),  # the first tokens leave two of them
        ((), None),
    ],
)
def test_the_token_that_tells_choices_apart(choices, position):
    ids = tuple(np.array(choice, np.int32) for choice in choices)
    example = dataclasses.replace(answer("t", "c", {}).example, choice_ids=ids)
    assert example.first_difference == position


def test_ranking_by_the_first_token():
    example = dataclasses.replace(
        answer("t", "c", {}).example,
        references=("B",),
        answer_choices=(" A", " B"),
        choice_ids=(np.array([5, 36, 1]), np.array([5, 37, 1])),
        metric_names=(RANK_FIRST, "mmlu"),
    )
    choices = [
        LogLikelihood(sum=-3.5, num_tokens=3, tokens=(-1.0, -2.0, -0.5)),
        LogLikelihood(sum=-5.0, num_tokens=3, tokens=(-1.0, -1.5, -2.5)),
    ]
    judged = judge(example, "The answer is B", choices, ("exact_match",))
    assert judged.scores == {
        "exact_match": 0.0, "mmlu": 1.0,
        RANK_SUM: 0.0, RANK_MEAN: 0.0, RANK_FIRST: 1.0,
    }  # fmt: skip
    assert judged.to_json("h")["log_likelihood_first_token"] == [-2.0, -1.5]


def test_each_group_is_reported_by_its_own_metric_beside_the_baselines():
    own = {"t1": ("exact_match",), "t2": ("token_f1", "exact_match"), "t3": ()}
    answers = []
    for task, names in own.items():
        given = answer(task, task[0], {})
        example = dataclasses.replace(
            given.example, category=f"c_{task}", cluster="all", metric_names=names,
            references=("x y",), baselines={"copy_input": "x", "copy_demo": "x y"},
        )  # fmt: skip
        answers.append(judge(example, "x z", (), ()))
    eval_set = EvalSet(
        examples=tuple(a.example for a in answers),
        vocabulary=prepared.VOCABULARY,
        metric_functions=dict.fromkeys(own, ()),
        fingerprints={},
        split_hash="h",
        split_hashes={"t1": "h1"},
    )
    table = report.summarize(answers, eval_set, ())
    assert table["headline"]["tasks"] == {
        "t1": {"metric": "exact_match", "score": 0.0, "copy_input": 0.0, "copy_demo": 100.0},
        "t2": {
            "metric": "token_f1", "score": 50.0,
            "copy_input": pytest.approx(200 / 3), "copy_demo": 100.0,
        },
    }  # fmt: skip
    assert table["headline"]["categories"].keys() == {"c_t1", "c_t2"}
    assert table["clusters"]["all"]["num_examples"] == 3
    assert table["split_hashes"] == {"t1": "h1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("bleu",)}, "Unknown metric 'bleu'; known are"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"max_examples_per_task": 0}, "max_examples_per_task must be positive"),
        ({"inputs_length": 100, "length_buckets": (64,)}, "is less than inputs_length = 100"),
        ({"length_buckets": (64, 32)}, "must ascend"),
    ],
)
def test_configuration_errors(options, message):
    with pytest.raises(ValueError, match=message):
        EvalConfig(**options)


def test_a_model_that_is_too_small_for_the_vocabulary_is_refused(data_dir):
    eval_set = run.load_set("instructions", data_dir, EVAL)
    model = type(tiny.MODEL)(**{**vars(tiny.MODEL), "vocab_size": 256})
    with pytest.raises(ValueError, match="has 259 ids but the model 256 rows"):
        run.make_predictor(model, None, sharding.make_mesh(MeshConfig()), eval_set, EVAL)


def test_buckets_double():
    assert length_buckets(512) == (64, 128, 256, 512)
    assert length_buckets(100) == (64, 100)
    assert length_buckets(40) == (40,)


def test_evaluation_imports_no_tensorflow():
    code = (
        "import sys; import ul2tune.evaluation.run, ul2tune.evaluation.infer\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'seqio', 'gin'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
