"""Every metric by name, for all collections.

:data:`SCORES` holds the per-example scores. The functions with SeqIO's signature
`(targets, predictions)` are their means in percent: a SeqIO Task lists them as `metric_fns`, and
its manifest names them as ``ul2tune.metrics.registry.exact_match``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ul2tune import named_function
from ul2tune.metrics.answers import score_bbh, score_gsm8k, score_mmlu
from ul2tune.metrics.denotation import score_all_ex, score_denotation
from ul2tune.metrics.dialogue_state import score_multiwoz_joint
from ul2tune.metrics.flan_answers import score_flan_cot, score_flan_first_word
from ul2tune.metrics.references import paired
from ul2tune.metrics.spider import score_spider_exact_match, score_spider_exact_match_tables
from ul2tune.metrics.tabfact import score_tabfact
from ul2tune.metrics.text import (
    score_exact_match,
    score_rouge_l,
    score_rouge_l_gpt2,
    score_squad_exact_match,
    score_token_f1,
    score_trivia_qa_exact_match,
    score_trivia_qa_f1,
)

Score = Callable[[str, Sequence[str]], float]
MetricFn = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]]

# The registry. `Record.metric_names` and `EvalConfig.metrics` name its keys; the metrics named
# after a suite take the final answer out of the prediction first.
SCORES: Mapping[str, Score] = {
    "exact_match": score_exact_match,
    "token_f1": score_token_f1,
    "squad_exact_match": score_squad_exact_match,
    "trivia_qa_exact_match": score_trivia_qa_exact_match,
    "trivia_qa_f1": score_trivia_qa_f1,
    "rouge_l": score_rouge_l,
    "rouge_l_gpt2": score_rouge_l_gpt2,
    "flan_cot": score_flan_cot,
    "flan_first_word": score_flan_first_word,
    "bbh": score_bbh,
    "gsm8k": score_gsm8k,
    "mmlu": score_mmlu,
    "all_ex": score_all_ex,
    "denotation": score_denotation,
    "tabfact": score_tabfact,
    "spider_exact_match": score_spider_exact_match,
    "spider_exact_match_tables": score_spider_exact_match_tables,
    "multiwoz_joint": score_multiwoz_joint,
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
      ValueError: as `references.paired`.
    """
    pairs = paired(name, targets, predictions)
    return 100.0 * sum(SCORES[name](text, references) for references, text in pairs) / len(pairs)


def resolve(name: str) -> MetricFn:
    """Imports the metric function that a manifest names: ``package.module.function``, or with a
    colon before the function.

    Raises:
      ValueError: if there is no such function.
    """
    try:
        found = named_function.find(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"Metric {name!r} of the manifest cannot be imported ({error}). Put it into a module "
            f"on the path that imports no TensorFlow, or prepare the task again without it."
        ) from error
    if not callable(found):
        raise ValueError(f"Metric {name!r} of the manifest is not a function but {found!r}.")
    return cast(MetricFn, found)
