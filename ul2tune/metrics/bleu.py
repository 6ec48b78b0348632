"""Corpus BLEU of the package `sacrebleu` (Post 2018, arXiv:1804.08771)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ul2tune.metrics.references import paired


def corpus_bleu(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """BLEU of a whole corpus, 0 to 100, with SeqIO's signature.

    As UnifiedSKG scores DART: sacrebleu's defaults (13a tokenisation, exponential smoothing), white
    space around texts dropped, all references of an example. Examples may have different numbers of
    references.

    Args:
      targets: references of each example: a string, or several.
      predictions: one per example.

    Raises:
      ValueError: if `sacrebleu` is not installed, or there are not as many predictions as targets,
        or none, or an example has no references.
    """
    references = [texts for texts, _ in paired("BLEU", targets, predictions)]
    width = max(map(len, references))
    # One stream per place among the references; None where an example has fewer.
    streams = [
        [texts[place].strip() if place < len(texts) else None for texts in references]
        for place in range(width)
    ]
    found = _bleu()([text.strip() for text in predictions], streams)
    return {"sacrebleu": float(found.score)}


def _bleu() -> Any:
    try:
        # An optional extra: only BLEU needs it.
        import sacrebleu
    except ImportError as error:
        raise ValueError(
            "BLEU needs the package sacrebleu, which is not installed. Install it with "
            "`pip install 'ul2tune[eval]'`, or leave BLEU out of the metrics."
        ) from error
    return sacrebleu.corpus_bleu
