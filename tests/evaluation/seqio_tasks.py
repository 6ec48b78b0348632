"""Tasks as their authors register them for T5X: in plain SeqIO, with postprocessors and metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from ul2tune.data.vocab import ByteVocabulary
from ul2tune.prepare.seqio_vocab import SeqioVocabulary

FEATURE = seqio.Feature(SeqioVocabulary(ByteVocabulary(extra_ids=0, modes=())), add_eos=True)
LABELS = ["no", "yes"]


def register(name: str, rows: Sequence[Mapping[str, Any]], **scoring: Any) -> seqio.Task:
    """A task over rows of numbers, texts and lists of them, which are all its split `validation`.
    A list is 1-D and may have another length in each row."""

    def signature(value: Any) -> tf.TensorSpec:
        array = np.asarray(value)
        kind = tf.string if array.dtype.kind == "U" else array.dtype
        return tf.TensorSpec([None] * array.ndim, kind)

    def dataset(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_generator(
            lambda: iter(rows),
            output_signature={key: signature(value) for key, value in rows[0].items()},
        )

    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=["validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"inputs": FEATURE, "targets": FEATURE},
        **scoring,
    )


def string_label_to_class_id(label, label_classes, default=-1, **unused):
    return label_classes.index(label) if label in label_classes else default


def qa(answer, example=None, is_target=False):
    return [text.decode() for text in example["answers"]] if is_target else answer


def multirc(text, example=None, is_target=False):
    group = {"group": example["idx/question"].item()} if is_target else {}
    return {"value": string_label_to_class_id(text, label_classes=LABELS), **group}


def rank_classification(score, example=None, is_target=False):
    if not is_target:
        return score
    return tuple(example["idx"].tolist()), bool(example["is_correct"]), len(example["targets"])


def accuracy(targets, predictions):
    return {"accuracy": 100 * float(np.mean(np.equal(targets, predictions)))}


def squad(targets, predictions):
    pairs = zip(targets, predictions, strict=True)
    right = [any(text == answer for answer in answers) for answers, text in pairs]
    return {"em": seqio.metrics.Scalar(100 * float(np.mean(right))), "log": seqio.metrics.Text("")}


def group_accuracy(targets, predictions):
    groups: dict[int, list[bool]] = {}
    for target, prediction in zip(targets, predictions, strict=True):
        groups.setdefault(target["group"], []).append(target["value"] == prediction["value"])
    return {"group_accuracy": 100 * float(np.mean([all(group) for group in groups.values()]))}


def mean_length(targets, predictions, unit="characters"):
    assert all(type(text) is str for text in (*targets, *predictions))
    return {f"{unit}_over": float(np.mean([len(p) - len(t) for t, p in zip(targets, predictions)]))}


def ranked(targets, scores, by_length=False):
    best: dict[int, tuple[float, bool]] = {}
    for ((number, _), is_correct, length), score in zip(targets, scores, strict=True):
        value = score / length if by_length else score
        best[number] = max(best.get(number, (-np.inf, False)), (value, is_correct))
    return {f"ranked_{by_length}": 100 * float(np.mean([right for _, right in best.values()]))}


def log_likelihood(targets, scores):
    assert isinstance(scores, np.ndarray)
    return {"log_likelihood": float(scores.mean())}


def rows(**columns: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows of such columns, with prompts."""
    number = len(next(iter(columns.values())))
    whole = {"inputs": [f"prompt {n}" for n in range(number)], **columns}
    return [{key: whole[key][n] for key in whole} for n in range(number)]


_RANKED = ["a", "bcd", "ab", "b", "abcde"]
# name -> rows, what the task is scored by, and answers that a model might give
TASKS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], Sequence[str]]] = {
    "classes": (
        rows(targets=["no", "yes", "yes", "no"]),
        {
            "postprocess_fn": functools.partial(string_label_to_class_id, label_classes=LABELS),
            "metric_fns": [accuracy],
        },
        ["no", " yes", "yes", "maybe"],  # outer space makes it another class
    ),
    "answers": (
        rows(
            targets=["é one", "two", "four"],
            answers=[["é one", "1"], ["two"], ["four", "4", "IV"]],
        ),
        {"postprocess_fn": qa, "metric_fns": [squad]},
        ["1", "2", "IV"],
    ),
    "groups": (
        rows(targets=["no", "yes", "yes", "no"], **{"idx/question": [3, 3, 5, 5]}),
        {"postprocess_fn": multirc, "metric_fns": [group_accuracy]},
        ["no", "yes", "yes", "yes"],
    ),
    "texts": (
        rows(targets=["a", "bc", ""]),
        {"metric_fns": [mean_length, functools.partial(mean_length, unit="letters")]},
        ["a", "b", "longer"],
    ),
    "choices": (
        rows(
            targets=_RANKED,
            idx=[[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]],
            is_correct=[True, False, False, True, False],
            weight=np.float32([0.1, 1, 1, 1, 1]),
        ),
        {
            "postprocess_fn": rank_classification,
            "metric_fns": [ranked, functools.partial(ranked, by_length=True), log_likelihood],
        },
        _RANKED,
    ),
    "both": (
        rows(targets=["no", "yes"]),
        {"metric_fns": [log_likelihood, accuracy]},
        ["no", "no"],
    ),
}


def in_seqio(
    name: str, predict: Callable[[int], Sequence[int]], scores: Sequence[float]
) -> dict[str, Any]:
    """What SeqIO's own Evaluator makes of answers (ids by number of example) and of
    log-likelihoods."""
    evaluator = seqio.Evaluator(
        name,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        sequence_length={"inputs": 64, "targets": 64},
    )
    numbers = range(len(scores))
    answers = [[*predict(n)] for n in numbers]
    longest = max(map(len, answers))
    padded = [(n, [*ids, *[0] * (longest - len(ids))]) for n, ids in enumerate(answers)]
    future, _ = evaluator.evaluate(
        compute_metrics=True,
        predict_fn=lambda dataset, *_: padded,
        score_fn=lambda dataset, *_: [(n, scores[n]) for n in numbers],
    )
    found = future.result()[name].items()
    numbers_of = {key: getattr(value, "value", value) for key, value in found}
    return {key: value for key, value in numbers_of.items() if isinstance(value, float)}
