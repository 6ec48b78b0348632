"""Scores of free text: prediction and references -> number in [0, 1], the best over references."""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from ul2tune.metrics import byte_bpe
from ul2tune.metrics.references import best

_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)
# TriviaQA's evaluation script puts a blank for each of these, where SQuAD's drops them.
_BLANK_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`_", " "))
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Tk-Instruct's normalisation: lower case, no ASCII punctuation, single spaces.

    Articles are kept, unlike in SQuAD.
    """
    return " ".join(text.lower().translate(_DROP_PUNCTUATION).split())


def normalize_squad(text: str) -> str:
    """SQuAD's normalisation (Rajpurkar et al. 2016, evaluation script): articles go as well."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DROP_PUNCTUATION)).split())


def normalize_trivia_qa(text: str) -> str:
    """TriviaQA's normalisation (Joshi et al. 2017, evaluation script): punctuation separates words,
    typographic quotes too; articles go."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_BLANK_PUNCTUATION)).split())


def score_exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the normalised prediction equals a normalised reference (Tk-Instruct).

    Raises:
      ValueError: if there are no references.
    """
    return _exact_match(prediction, references, normalize)


def score_token_f1(prediction: str, references: Sequence[str]) -> float:
    """SQuAD's F1 over bags of normalised words; two empty answers agree.

    Raises:
      ValueError: if there are no references.
    """
    return best(_f1(prediction, reference, normalize_squad) for reference in references)


def score_squad_exact_match(prediction: str, references: Sequence[str]) -> float:
    """SQuAD's exact match, as T5 and T0 report it: equal but for case, punctuation and articles.

    Raises:
      ValueError: if there are no references.
    """
    return _exact_match(prediction, references, normalize_squad)


def score_trivia_qa_exact_match(prediction: str, references: Sequence[str]) -> float:
    """TriviaQA's exact match, see :func:`normalize_trivia_qa`.

    Raises:
      ValueError: if there are no references.
    """
    return _exact_match(prediction, references, normalize_trivia_qa)


def score_trivia_qa_f1(prediction: str, references: Sequence[str]) -> float:
    """TriviaQA's F1 over bags of normalised words; two empty answers agree.

    Raises:
      ValueError: if there are no references.
    """
    return best(_f1(prediction, text, normalize_trivia_qa) for text in references)


def score_rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F-measure of the `rouge-score` package with its Porter stemmer (Tk-Instruct).

    Raises:
      ValueError: if there are no references, or `rouge-score` is not installed.
    """
    return best(rouge(prediction, reference)["f"] for reference in references)


def score_rouge_l_gpt2(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L F-measure over GPT-2's pieces, for all languages (Tk-Instruct's cross-lingual track).

    Raises:
      ValueError: if there are no references, `rouge-score` is not installed, or no merges are
        given (`metrics.byte_bpe`).
    """
    pieces = byte_bpe.default()
    return best(rouge(prediction, reference, tokenizer=pieces)["f"] for reference in references)


class WordTokenizer(Protocol):
    """What `rouge-score` cuts a text into words with."""

    def tokenize(self, text: str) -> list[str]: ...


def rouge(
    prediction: str,
    reference: str,
    *,
    variant: str = "rougeL",
    stemmer: bool = True,
    tokenizer: WordTokenizer | None = None,
) -> dict[str, float]:
    """Precision, recall and F-measure by `rouge-score`'s own implementation.

    Args:
      prediction, reference: the order matters for precision and recall.
      variant: "rouge1", "rouge2", "rougeL", … as `rouge-score` names them.
      stemmer: whether to stem words first.
      tokenizer: makes words of a text in place of `rouge-score`'s own, which knows Latin letters
        and digits only; nothing is stemmed then.
    """
    scorer = _rouge_scorer(variant, stemmer, tokenizer)
    score = scorer.score(target=reference, prediction=prediction)[variant]
    return {"p": score.precision, "r": score.recall, "f": score.fmeasure}


def _exact_match(
    prediction: str, references: Sequence[str], normalized: Callable[[str], str]
) -> float:
    return best(float(normalized(prediction) == normalized(text)) for text in references)


def _f1(prediction: str, reference: str, normalized: Callable[[str], str]) -> float:
    predicted, expected = normalized(prediction).split(), normalized(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2.0 * common / (len(predicted) + len(expected))


@functools.cache
def _rouge_scorer(variant: str, stemmer: bool, tokenizer: WordTokenizer | None):
    try:
        # An optional extra: only ROUGE needs it, and it brings nltk along.
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise ValueError(
            "ROUGE needs the package rouge-score, which is not installed. Install it with "
            "`pip install 'ul2tune[eval]'`, or leave 'rouge_l' out of the metrics."
        ) from error
    return rouge_scorer.RougeScorer([variant], use_stemmer=stemmer, tokenizer=tokenizer)
