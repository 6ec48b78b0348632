"""Every field of EvalConfig and InferConfig changes what the model is asked or what is written.

The model is replaced by one that writes down what it is asked: nothing is compiled. That it obeys
is what test_predictor, test_layouts and the tests of `decoding` see to.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.checkpoints import saving
from tests.evaluation import prepared
from tests.evaluation.test_layouts import MODEL
from ul2tune.checkpoints import vocabulary
from ul2tune.data import manifest
from ul2tune.data.manifest import MixtureManifest
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import infer as infer_lib
from ul2tune.evaluation import run as run_lib
from ul2tune.evaluation.infer import InferConfig
from ul2tune.evaluation.predictor import LogLikelihood
from ul2tune.evaluation.run import EvalConfig
from ul2tune.instructions.records import Rendered
from ul2tune.sharding import MeshConfig

OTHER = SamplingConfig(max_decode_length=3)
# Every field, and a value that is not that of the configuration below.
EVAL = {
    "split": "test",
    "inputs_length": 24,
    "batch_size": 16,
    "sampling": OTHER,
    "metrics": ("rouge_l",),
    "task_metrics": False,
    "rank_choices": False,
    "max_examples_per_task": 2,
    "length_buckets": (48,),
    "layout": "causal_lm",
    "ema": True,
    "allow_other_vocabulary": False,
}
INFER = {
    "sampling": OTHER,
    "inputs_length": 8,
    "batch_size": 16,
    "append_eos": False,
    "special_tokens": True,
    "layout": "causal_lm",
    "ema": True,
    "allow_other_vocabulary": False,
    "input_format": "text",
    "stop": "<extra_id_1>",
}
COMMON = {
    "sampling": SamplingConfig(max_decode_length=4),
    "inputs_length": 32,
    "batch_size": 8,
    "layout": "prefix_lm",
    "allow_other_vocabulary": True,
}
# Only repeats the configuration.
ECHO = ("split", "inputs_length", "layout", "sampling")


class Asked:
    """Stands for `predictor.Predictor` and writes down what it is asked."""

    def __init__(self, notes: list, **options: Any):
        self.notes, self.layout, self.batch_size = notes, options["layout"], options["batch_size"]
        self.notes.append({name: options[name] for name in ("batch_size", "length_buckets")})
        self.notes.append(self.layout)

    def generate(self, inputs, names, sampling, on_done, *, stops):
        self.notes.append(([ids.tolist() for ids in inputs], list(names), sampling, list(stops)))
        return [np.array([*prepared.VOCABULARY.encode("yes"), 1])] * len(inputs)

    def score(self, inputs, targets, on_done):
        self.notes.append([(x.tolist(), y.tolist()) for x, y in zip(inputs, targets, strict=True)])
        tokens = [(-1.0,) * len(target) for target in targets]
        return [LogLikelihood(sum=-1.0, num_tokens=1, tokens=values) for values in tokens]


@pytest.fixture
def notes(monkeypatch) -> list:
    """What the model was asked."""
    found: list = []

    def load(model, mesh, step_dir, *, ema):
        found.append(ema)

    def make(model, params, mesh, **options):
        return Asked(found, **options)

    for module in (run_lib, infer_lib):
        monkeypatch.setattr(module, "load_params", load)
        monkeypatch.setattr(module, "Predictor", make)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data of two splits, prompts, and a checkpoint of another vocabulary."""
    path = tmp_path_factory.mktemp("all")
    for split, count in (("validation", 5), ("test", 3)):
        rows = [
            (record, Rendered(inputs=record.input, targets="no", answer_choices=("yes", "no")))
            for record in prepared.records("is_long", count)
        ]
        own = {"metric_names": ["token_f1"]}
        prepared.write_rows(path / "data", "is_long", split, rows, fields=own)
    mixture = MixtureManifest(name="mix", tasks=("is_long",), rates=(1.0,))
    manifest.write(mixture, manifest.mixture_path(path / "data", "mix"))
    prompts = [{"prompt": "a long word <extra_id_0>", "id": "x"}, {"prompt": "b", "id": "y"}]
    (path / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in prompts))
    saving.save(
        path / "model", 7, {"params": {"w": jnp.ones(3)}}, {vocabulary.KEY: {"kind": "other"}}
    )
    return path


def evaluated(config: EvalConfig, folder, out, notes: list) -> Any:
    """All that an evaluation asks and writes, or why it does not."""
    places = ("mix", str(folder / "data"), str(folder / "model"), MeshConfig(), str(out))
    notes.clear()
    try:
        table = run_lib.evaluate(MODEL, *places, config)
    except ValueError as error:
        return str(error)
    kept = {name: value for name, value in table.items() if name not in ECHO}
    return list(notes), kept, (out / "predictions.jsonl").read_text()


def inferred(config: InferConfig, folder, out, notes: list) -> Any:
    """The same of `infer`."""
    out.mkdir()
    places = (str(folder / "prompts.jsonl"), str(out / "answers.jsonl"))
    words = ByteVocabulary(extra_ids=5, modes=())
    notes.clear()
    try:
        infer_lib.infer(MODEL, words, str(folder / "model"), MeshConfig(), *places, config)
    except ValueError as error:
        return str(error)
    return list(notes), (out / "answers.jsonl").read_text()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EvalConfig)])
def test_every_field_of_an_evaluation_changes_something(folder, tmp_path, notes, field):
    config = EvalConfig(metrics=("exact_match",), **COMMON)
    changed = dataclasses.replace(config, **{field: EVAL[field]})
    before = evaluated(config, folder, tmp_path / "before", notes)
    assert before != evaluated(changed, folder, tmp_path / "after", notes)
    assert before == evaluated(config, folder, tmp_path / "again", notes)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(InferConfig)])
def test_every_field_of_an_inference_changes_something(folder, tmp_path, notes, field):
    config = InferConfig(**COMMON)
    changed = dataclasses.replace(config, **{field: INFER[field]})
    before = inferred(config, folder, tmp_path / "before", notes)
    assert before != inferred(changed, folder, tmp_path / "after", notes)
    assert before == inferred(config, folder, tmp_path / "again", notes)


def test_only_the_vocabulary_is_refused(folder, tmp_path, notes):
    """Elsewhere a refusal would pass for a change."""
    tables: Any = ((EvalConfig, EVAL, evaluated), (InferConfig, INFER, inferred))
    for kind, values, ask in tables:
        for field, value in values.items():
            out = tmp_path / f"{kind.__name__}_{field}"
            found = ask(kind(**COMMON | {field: value}), folder, out, notes)
            assert isinstance(found, str) == (field == "allow_other_vocabulary"), field
