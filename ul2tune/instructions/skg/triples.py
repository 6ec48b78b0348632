"""Triples of knowledge graphs as UnifiedSKG writes DART (Nan et al. 2021, arXiv:2007.02871)."""

from __future__ import annotations

from collections.abc import Sequence


def linearize(triples: Sequence[Sequence[str]]) -> str:
    """``subject : relation : object | …``; only relations are lower-cased."""
    return " | ".join(f"{s} : {relation.lower()} : {o}" for s, relation, o in triples)
