"""Text metrics, one registry for every collection.

:data:`SCORES` holds the per-example scores: prediction and references -> number in [0, 1], the best
over the references. The functions of the same name with SeqIO's signature `(targets, predictions)`
are their means in percent: a SeqIO Task lists them as `metric_fns`, and its manifest names them as
``ul2tune.data.metrics:exact_match``.
"""

from __future__ import annotations

import functools
import importlib
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

Score = Callable[[str, Sequence[str]], float]
MetricFn = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]]

_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Tk-Instruct's normalisation: lower case, no ASCII punctuation, single spaces.

    Articles are kept, unlike in SQuAD.
    """
    return " ".join(text.lower().translate(_DROP_PUNCTUATION).split())


def normalize_squad(text: str) -> str:
    """SQuAD's normalisation (Rajpurkar et al. 2016, evaluation script): articles go as well."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DROP_PUNCTUATION)).split())


def score_exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the normalised prediction equals a normalised reference (Tk-Instruct)."""
    return float(normalize(prediction) in {normalize(reference) for reference in references})


def score_token_f1(prediction: str, references: Sequence[str]) -> float:
    """SQuAD's F1 over bags of normalised words; two empty answers agree."""
    return max(_token_f1(prediction, reference) for reference in references)


def score_rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F-measure of the `rouge-score` package with its Porter stemmer (Tk-Instruct).

    Raises:
      ValueError: if `rouge-score` is not installed.
    """
    return max(rouge(prediction, reference)["f"] for reference in references)


def rouge(
    prediction: str, reference: str, *, variant: str = "rougeL", stemmer: bool = True
) -> dict[str, float]:
    """Precision, recall and F-measure by `rouge-score`'s own implementation.

    Args:
      prediction, reference: the order matters for precision and recall.
      variant: "rouge1", "rouge2", "rougeL", … as `rouge-score` names them.
      stemmer: whether to stem words first.
    """
    score = _rouge_scorer(variant, stemmer).score(target=reference, prediction=prediction)[variant]
    return {"p": score.precision, "r": score.recall, "f": score.fmeasure}


# The registry. `Record.metric_names` and `EvalConfig.metrics` name its keys.
SCORES: Mapping[str, Score] = {
    "exact_match": score_exact_match,
    "token_f1": score_token_f1,
    "rouge_l": score_rouge_l,
}


def exact_match(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Mean :func:`score_exact_match` in percent, with SeqIO's signature.

    `targets` are the references of each example: a string, or several.
    """
    return {"exact_match": mean_percent("exact_match", targets, predictions)}


def token_f1(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Mean :func:`score_token_f1` in percent, with SeqIO's signature."""
    return {"token_f1": mean_percent("token_f1", targets, predictions)}


def rouge_l(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Mean :func:`score_rouge_l` in percent, with SeqIO's signature."""
    return {"rouge_l": mean_percent("rouge_l", targets, predictions)}


def mean_percent(name: str, targets: Sequence[Any], predictions: Sequence[str]) -> float:
    """Mean over examples of the score `name`, times 100.

    Raises:
      ValueError: if there are not as many predictions as targets, or none.
    """
    if len(targets) != len(predictions) or not targets:
        raise ValueError(
            f"{name} needs one prediction per target, got {len(predictions)} for {len(targets)}."
        )
    references = [[target] if isinstance(target, str) else list(target) for target in targets]
    total = sum(SCORES[name](p, r) for p, r in zip(predictions, references))
    return 100.0 * total / len(targets)


def rank_choice(scores: Sequence[float]) -> int:
    """Index of the best-scored answer choice; the first one on a tie.

    NUMERICS: scores are compared after rounding to 1e-4, so that the order of a reduction, which
    differs between numbers of devices, decides no tie.
    """
    rounded = [round(score, 4) for score in scores]
    return rounded.index(max(rounded))


def is_correct_choice(choice: str, references: Sequence[str]) -> bool:
    """T0's test: the choice equals a reference up to surrounding white space."""
    return choice.strip() in {reference.strip() for reference in references}


def resolve(name: str) -> MetricFn:
    """Imports the metric function a manifest names as ``package.module:function``.

    Raises:
      ValueError: if there is no such function.
    """
    module, separator, function = name.partition(":")
    if not separator:
        module, _, function = name.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"Metric {name!r} of the manifest cannot be imported ({error}). Put it into a module "
            f"on the path that imports no TensorFlow, or prepare the task again without it."
        ) from error
    if not callable(found):
        raise ValueError(f"Metric {name!r} of the manifest is not a function but {found!r}.")
    return cast(MetricFn, found)


def _token_f1(prediction: str, reference: str) -> float:
    predicted, expected = normalize_squad(prediction).split(), normalize_squad(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2.0 * common / (len(predicted) + len(expected))


@functools.cache
def _rouge_scorer(variant: str, stemmer: bool):
    try:
        # An optional extra: only ROUGE needs it, and it brings nltk along.
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise ValueError(
            "ROUGE needs the package rouge-score, which is not installed. Install it with "
            "`pip install 'ul2tune[eval]'`, or leave 'rouge_l' out of the metrics."
        ) from error
    return rouge_scorer.RougeScorer([variant], use_stemmer=stemmer)
