"""Spider's exact set match: are two queries equal clause by clause, whatever the order in a clause?

Source: Yu et al. 2018 (arXiv:1809.08887) and `evaluation.py` of taoyds/spider in its default
setting: values and `distinct` are not compared, columns joined by a foreign key are the same. The
reference's oddities are part of the published numbers and are kept: nested queries in conditions
are compared as they are written, `limit 1` equals `limit 3`, and a `having` with two conditions
counts its ``and`` as an aggregate when hardness is judged.

There are two exact matches, and both are always reported:

    exact          all components match, and the tables where the gold query joins several: the
                   first release, whose published example has 0.725
    exact_tables   and the table where the gold query reads one, which matters for `count(*)`: the
                   script since 2018-10-25 and with it what papers report, UnifiedSKG's among them
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune.metrics.references import context_of, paired
from ul2tune.metrics.sql_compare import (
    COMPONENTS,
    LIKE,
    Matched,
    all_match,
    comparable,
    compare,
    connectors,
    same_tables,
)
from ul2tune.metrics.sql_parse import parse
from ul2tune.metrics.sql_query import Query
from ul2tune.metrics.sql_schema import DatabaseSchema, load_schemas
from ul2tune.metrics.sql_tokens import SqlError

LEVELS = ("easy", "medium", "hard", "extra")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One prediction.

    Attributes:
      exact: every component matches, and so do joined tables.
      exact_tables: and so does a single table.
      hardness: of the gold query, one of `LEVELS`.
      components: by the reference's names, such as ``"select(no AGG)"``.
      error: why the prediction does not parse; empty if it does.
    """

    exact: bool
    exact_tables: bool
    hardness: str
    components: Mapping[str, Matched]
    error: str = ""


def judge(gold: str, prediction: str, schema: DatabaseSchema) -> Judgement:
    """Compares a predicted query to the gold query of the same database.

    Raises:
      SqlError: if the gold query does not parse; a prediction that does not is wrong.
    """
    expected = parse(gold, schema)
    level = hardness(expected)
    error = ""
    try:
        found = parse(prediction, schema)
    except SqlError as reason:
        found, error = Query(), str(reason)
    expected, found = comparable(expected, schema), comparable(found, schema)
    components = compare(found, expected)
    exact = all_match(components, found, expected)
    return Judgement(
        exact=exact,
        exact_tables=exact and same_tables(found, expected),
        hardness=level,
        components=components,
        error=error,
    )


def score_files(gold: str | Path, predictions: str | Path, tables: str | Path) -> dict[str, Any]:
    """Scores files as Spider's `evaluation.py` does.

    Args:
      gold: a query, a tab and the database's name per line.
      predictions: a query per line, in the same order; what follows a tab is ignored.
      tables: `tables.json`.

    Returns:
      the table of :func:`report`.

    Raises:
      ValueError: naming file, line and reason.
    """
    schemas = load_schemas(tables)
    expected, found = _lines(gold), _lines(predictions)
    if len(expected) != len(found):
        raise ValueError(f"{predictions} has {len(found)} queries, {gold} has {len(expected)}.")
    judgements = []
    for (number, line), (_, prediction) in zip(expected, found):
        query, _, db_id = line.partition("\t")
        if db_id not in schemas:
            raise ValueError(f"{gold}:{number}: {tables} has no database {db_id!r}.")
        try:
            judgement = judge(query, prediction.partition("\t")[0], schemas[db_id])
        except SqlError as error:
            raise ValueError(f"{gold}:{number}: the gold query does not parse: {error}.") from error
        judgements.append(judgement)
    return report(judgements)


def score_spider_exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction equals the gold query clause by clause.

    The gold query and its schema are read from the references' context
    (`ul2tune.metrics.references`), which `instructions.skg.records` fills:
    ``{"query": …, "schema": {an entry of tables.json}}``. With ``"db_id_in_target": true`` beside
    them, predictions are read without the database's name in front, as UnifiedSKG's evaluator does.

    Raises:
      ValueError: if the references have no such context.
    """
    return float(_judged(references, prediction).exact)


def score_spider_exact_match_tables(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction equals the gold query clause by clause, a single table included."""
    return float(_judged(references, prediction).exact_tables)


def spider_exact_match(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Both exact matches in percent, overall and by hardness, with SeqIO's signature;
    raises as `references.paired`."""
    pairs = paired("spider_exact_match", targets, predictions)
    table = report(_judged(references, prediction) for references, prediction in pairs)
    scores = {}
    for level in ("all", *LEVELS):
        if not table[level]["count"]:
            continue
        suffix = "" if level == "all" else f"_{level}"
        scores[f"spider_exact_match{suffix}"] = 100.0 * table[level]["exact"]
        scores[f"spider_exact_match_tables{suffix}"] = 100.0 * table[level]["exact_tables"]
    return scores


def report(judgements: Iterable[Judgement]) -> dict[str, dict[str, Any]]:
    """The reference's table, as fractions.

    Returns:
      level (and ``"all"``) -> ``count``, ``exact``, ``exact_tables``, and ``partial``:
      component -> ``acc``, ``rec``, ``f1``.
    """
    judgements = list(judgements)
    groups = {level: [j for j in judgements if j.hardness == level] for level in LEVELS}
    groups["all"] = judgements
    return {
        level: {
            "count": len(group),
            "exact": _mean([judgement.exact for judgement in group]),
            "exact_tables": _mean([judgement.exact_tables for judgement in group]),
            "partial": {name: _partial([j.components[name] for j in group]) for name in COMPONENTS},
        }
        for level, group in groups.items()
    }


def hardness(query: Query) -> str:
    """Spider's level of a query: one of `LEVELS`."""
    basic, nested, others = _num_basic(query), len(_nested(query)), _num_others(query)
    if basic <= 1 and others == 0 and nested == 0:
        return "easy"
    if nested == 0 and ((others <= 2 and basic <= 1) or (basic <= 2 and others < 2)):
        return "medium"
    if nested == 0 and ((others > 2 and basic <= 2) or (2 < basic <= 3 and others <= 2)):
        return "hard"
    if basic <= 1 and others == 0 and nested <= 1:
        return "hard"
    return "extra"


# --- hardness ---


def _num_basic(query: Query) -> int:
    """Clauses, joins, `or` and `like`."""
    units = [*query.joins[::2], *query.where[::2], *query.having[::2]]
    clauses = (query.where, query.group, query.order is not None, query.limit is not None)
    joins = max(len(query.tables) - 1, 0)
    likes = sum(unit[1] == LIKE for unit in units)
    return sum(map(bool, clauses)) + joins + connectors(query).count("or") + likes


def _nested(query: Query) -> list[Query]:
    units = [*query.joins[::2], *query.where[::2], *query.having[::2]]
    operands = [operand for unit in units for operand in unit[3:5]]
    found = [*operands, query.intersect, query.except_, query.union]
    return [item for item in found if isinstance(item, Query)]


def _num_others(query: Query) -> int:
    """How many of these there is more than one of: aggregates, columns, conditions, groups."""
    values = query.order.values if query.order else ()
    ordered = [column for v in values for column in (v.left, v.right) if column]
    units = [*query.select, *query.where[::2], *query.group, *ordered, *query.having]
    # The first field is an aggregate, a condition's `not`, or the first letter of "and".
    aggregates = sum(unit[0] != 0 for unit in units)
    counts = (aggregates, len(query.select), len(query.where), len(query.group))
    return sum(count > 1 for count in counts)


# --- reading and counting ---


def _judged(references: Sequence[str], prediction: str) -> Judgement:
    context = context_of(references, "spider_exact_match")
    if context.get("db_id_in_target"):
        prediction = prediction.split("|", 1)[-1].strip()
    return judge(context["query"], prediction, _schema(json.dumps(context.get("schema"))))


@functools.lru_cache(maxsize=256)
def _schema(text: str) -> DatabaseSchema:
    return DatabaseSchema.from_json(json.loads(text), "spider_exact_match")


def _lines(path: str | Path) -> list[tuple[int, str]]:
    # Not `splitlines`, which also parts a line at U+2028, U+0085 and form feeds.
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _partial(matches: Sequence[Matched]) -> dict[str, float]:
    """Accuracy over the predictions that have the component, recall over the gold that do."""
    accuracy = _mean([m.right for m in matches if m.predicted])
    recall = _mean([m.right for m in matches if m.gold])
    both = accuracy + recall
    # 1 where there is nothing to be right about, as in the reference.
    return {"acc": accuracy, "rec": recall, "f1": 2.0 * accuracy * recall / both if both else 1.0}
