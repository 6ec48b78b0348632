"""What manifests say of a task's scoring, and what `prepare` notes."""

from __future__ import annotations

import dataclasses
import functools
import json
import os

import pytest
import seqio

from tests.prepare import reading
from ul2tune.data import manifest
from ul2tune.data.seqio_metrics import SeqioMetrics
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.named_function import NamedFunction
from ul2tune.prepare.record_tasks import references
from ul2tune.prepare.scoring import scoring_of
from ul2tune.prepare.seqio_vocab import SeqioVocabulary


def named_metric(targets, predictions):
    return {}


def named_score_metric(targets, scores, bound=None):
    return {}


def aux_metric(targets, predictions, aux_values):
    return {}


def to_class(text, **_):
    return len(text)


def named(function, **kwargs):
    return NamedFunction(name=f"{__name__}:{function.__name__}", kwargs=kwargs)


def make_task(**scoring):
    return seqio.Task(
        "t",
        source=seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"]),
        preprocessors=[],
        output_features={"targets": seqio.Feature(SeqioVocabulary(ByteVocabulary()))},
        **scoring,
    )


def test_a_task_of_another_make_is_scored_as_in_seqio():
    bound = functools.partial(named_score_metric, bound=["a"])
    scores = {"metric_fns": [named_score_metric, bound, named_metric]}
    found = scoring_of(make_task(postprocess_fn=functools.partial(to_class, labels=(1,)), **scores))
    assert found.notes == found.metrics == ()
    assert found.seqio_metrics == SeqioMetrics(
        postprocess=named(to_class, labels=[1]),
        of_predictions=(named(named_metric),),
        of_scores=(named(named_score_metric), named(named_score_metric, bound=["a"])),
    )
    bare = scoring_of(make_task(**scores)).seqio_metrics
    assert bare == dataclasses.replace(found.seqio_metrics, postprocess=None)
    assert scoring_of(make_task(postprocess_fn=to_class)).seqio_metrics is None


def test_a_task_of_ours_is_scored_by_texts():
    found = scoring_of(
        make_task(postprocess_fn=references, metric_fns=[named_metric, named_score_metric])
    )
    assert found.seqio_metrics is None
    assert found.metrics == (f"{__name__}.named_metric",)
    (note,) = found.notes
    assert "named_score_metric wants more than targets and predictions; `evaluate` will" in note


def test_no_metric_objects_are_made_of_metric_functions(monkeypatch):
    """A class each: of 1,400 tasks, a third of what finding nothing to do takes."""
    task = make_task(postprocess_fn=references, metric_fns=[named_metric])
    monkeypatch.setattr(seqio.metrics, "PassthroughLegacyMetric", None)
    assert not scoring_of(task).notes


def test_what_is_left_out_is_noted():
    def local(targets, predictions):
        return {}

    objects = [seqio.metrics.PassthroughLegacyMetric.from_metric_fn(named_metric)]
    found = scoring_of(make_task(metric_fns=[local, aux_metric, named_metric], metric_objs=objects))
    assert found.seqio_metrics
    assert found.seqio_metrics.functions == (named(named_metric),)
    aux, nameless, objs = found.notes
    assert aux.endswith("aux_metric wants aux_values; `evaluate` will not compute it.")
    assert nameless.endswith("local has no importable name; `evaluate` will not compute it.")
    assert objs == "its metric_objs are not metric_fns; `evaluate` will not compute it."
    assert scoring_of(make_task(metric_fns=[local])).seqio_metrics is None


@pytest.mark.parametrize(
    ("postprocess", "shown"),
    [
        (lambda text, **_: text, "test_scoring.<lambda>"),
        (functools.partial(to_class, label=object()), "test_scoring.to_class"),
    ],
)
def test_without_its_postprocessor_no_metric_is_computed(postprocess, shown):
    found = scoring_of(make_task(postprocess_fn=postprocess, metric_fns=[named_metric]))
    assert (found.metrics, found.seqio_metrics) == ((), None)
    (note,) = found.notes
    assert f"{shown} has no importable name; `evaluate` will compute none of its metrics." in note


def test_notes_on_a_task_come_once_whatever_its_splits(task, name, tmp_path, capfd):
    def local(targets, predictions):
        return {}

    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add_provider(name, task.replace(metric_fns=[local]))
    reading.run(name, tmp_path)
    assert capfd.readouterr().err.count(f"Note on task {name}: metric ") == 1


@pytest.fixture
def old(task, name, tmp_path):
    """A prepared task as an older version left it: named metrics, and no postprocessor."""
    seqio.TaskRegistry.remove(name)
    changed = task.replace(metric_fns=[named_metric], postprocess_fn=to_class)
    seqio.TaskRegistry.add_provider(name, changed)
    reading.run(name, tmp_path)
    for path in tmp_path.rglob("manifest.json"):
        values = json.loads(path.read_text())
        del values["seqio_metrics"]
        values["metrics"] = [f"{__name__}.named_metric"]
        path.write_text(json.dumps(values))
    return reading.contents(tmp_path)


def test_data_of_an_older_version_gets_new_manifests_alone(old, name, tmp_path):
    assert manifest.read_task(tmp_path, name, "train").seqio_metrics is None
    reading.run(name, tmp_path)
    now = reading.contents(tmp_path)
    changed = {path for path in now if now[path] != old[path]}
    assert now.keys() == old.keys()
    assert {os.path.basename(path) for path in changed} == {"manifest.json"}
    entry = manifest.read_task(tmp_path, name, "train")
    assert entry.seqio_metrics
    assert entry.seqio_metrics.postprocess == named(to_class)
    assert entry.metrics == ()


def test_data_of_an_older_version_is_no_obstacle_to_training(
    old, name, tmp_path, monkeypatch, capfd
):
    """Where nothing may be replaced, or written, it is used as it is."""
    monkeypatch.setenv(manifest.PREPARE, manifest.MISSING)
    reading.run(name, tmp_path)
    assert f"{name}/train: an older version prepared it, and `evaluate`" in capfd.readouterr().err
    monkeypatch.delenv(manifest.PREPARE)
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and may(path, mode))
    reading.run(name, tmp_path)
    assert f"{name}/train: an older version prepared it, and `evaluate`" in capfd.readouterr().err
    assert reading.contents(tmp_path) == old
