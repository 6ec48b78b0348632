"""Files of UnifiedSKG's data sets -> records (`render` renders them).

    wikitq    {"id", "question", "table_id", "answer_text": […]} per line; tables: one JSON object,
              table_id -> {"header": […], "rows": [[…], …]}
    tab_fact  {"table_id", "table": {"header", "rows"}, "statements": […], "labels": [0|1, …]}
    dart      {"tripleset": [[s, r, o], …], "annotations": [{"text"}, …]}
    spider    {"db_id", "question", "query"}; schemas: `tables.json`
    multiwoz  {"dial_id", "turns": [{"system", "user", "state": {"slot_values": {…}}}, …]};
              ontology: slot -> its values, or slot -> {"values": […]}; with the authors'
              `slot_description.json` beside it the values are that file's, as in their prompts

Every file is JSON lines, or one JSON list of the same objects. A record's `structure` holds what
the renderer writes out, and under ``"source"`` the table or database that it shares with others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ul2tune.instructions import reading
from ul2tune.instructions.reading import objects, string, strings
from ul2tune.instructions.records import Record, SplitLevel
from ul2tune.instructions.skg import dialogue as skg_dialogue
from ul2tune.instructions.skg.tables import Table
from ul2tune.metrics.sql_schema import load_schemas
from ul2tune.metrics.tabfact import LABELS

_BENCHMARK = "unifiedskg"
Rows = Iterator[tuple[str, Mapping[str, Any]]]


def load(
    kind: str,
    path: str | Path,
    *,
    support: str | Path | None = None,
    split_level: SplitLevel = "supervised",
) -> Iterator[Record]:
    """Reads the records of one file.

    In training, a DART set has a record per reference; else one record has all of them.

    Args:
      kind: "wikitq", "tab_fact", "dart", "spider" or "multiwoz".
      path: the examples.
      support: the tables of "wikitq", the schemas of "spider", the ontology of "multiwoz".
      split_level: "train", or "supervised" for evaluation.

    Raises:
      ValueError: naming file, line and what is wrong there.
    """
    if kind not in _READERS:
        raise ValueError(f"There is no reader for {kind!r}; there are {sorted(_READERS)}.")
    needs_support, reader = _READERS[kind]
    if needs_support and support is None:
        raise ValueError(f"{path}: {kind!r} needs a second file: {needs_support}.")
    yield from reader(reading.read_rows(path), Path(support or path), split_level)


def source_of(record: Record) -> str:
    """The table, database or dialogue that a record shares with others; else its own id."""
    return json.loads(record.structure).get("source", record.id)


def _wikitq(rows: Rows, support: Path, level: SplitLevel) -> Iterator[Record]:
    tables = reading.read_object(support)
    for where, row in rows:
        question = string(row, "question", where)
        answers = strings(row, "answer_text", where)
        table_id = string(row, "table_id", where)
        if table_id not in tables:
            raise ValueError(f"{where}: {support} has no table {table_id!r}.")
        table = Table.from_json(tables[table_id], f"{support}: {table_id!r}")
        target = ", ".join(answers).lower()
        if not target.strip():
            raise ValueError(f"{where}: 'answer_text' is empty.")
        structure = {"source": table_id, "answers": answers, **_table(question, table)}
        yield Record(
            id=string(row, "id", where),
            task="wikitq",
            category="question answering",
            benchmark=_BENCHMARK,
            split_level=level,
            input=question.lower(),
            targets=(target,),
            metric_names=("all_ex", "denotation"),
            structure=_json(structure),
        )


def _tab_fact(rows: Rows, support: Path, level: SplitLevel) -> Iterator[Record]:
    for where, row in rows:
        table = Table.from_json(row.get("table"), f"{where}: 'table'")
        statements = strings(row, "statements", where)
        labels = row.get("labels")
        if not isinstance(labels, list) or len(labels) != len(statements):
            raise ValueError(f"{where}: 'labels' must be a list as long as 'statements'.")
        table_id = string(row, "table_id", where)
        for index, (statement, label) in enumerate(zip(statements, labels)):
            if type(label) is not int or label not in LABELS:
                raise ValueError(f"{where}: label {index} must be 0 or 1, got {label!r}.")
            # Lower-cased before it protects rows from deletion.
            structure = {"source": table_id, **_table(statement.lower(), table)}
            yield Record(
                id=f"{table_id}#{index}",
                task="tab_fact",
                category="fact verification",
                benchmark=_BENCHMARK,
                split_level=level,
                input=statement.lower(),
                targets=(LABELS[label],),
                answer_choices=tuple(LABELS.values()),
                metric_names=("tabfact",),
                structure=_json(structure),
            )


def _dart(rows: Rows, support: Path, level: SplitLevel) -> Iterator[Record]:
    for index, (where, row) in enumerate(rows):
        notes = objects(row, "annotations", where)
        if not notes:
            raise ValueError(f"{where}: 'annotations' is empty.")
        texts = tuple(string(note, "text", f"{where}: 'annotations'") for note in notes)
        triples = row.get("tripleset")
        if not isinstance(triples, list) or not all(_is_triple(t) for t in triples):
            raise ValueError(f"{where}: 'tripleset' must be a list of lists of three strings.")
        structure = _json({"kind": "triples", "triples": triples})
        groups = [(text,) for text in texts] if level == "train" else [texts]
        for number, references in enumerate(groups):
            yield Record(
                id=f"{index}#{number}" if level == "train" else str(index),
                task="dart",
                category="data to text",
                benchmark=_BENCHMARK,
                split_level=level,
                input="",
                targets=references,
                structure=structure,
            )


def _spider(rows: Rows, support: Path, level: SplitLevel) -> Iterator[Record]:
    schemas = load_schemas(support)
    for index, (where, row) in enumerate(rows):
        question, query = string(row, "question", where), string(row, "query", where)
        db_id = string(row, "db_id", where)
        if db_id not in schemas:
            raise ValueError(f"{where}: {support} has no database {db_id!r}.")
        schema = schemas[db_id].to_json()
        structure = {"kind": "schema", "source": db_id, "schema": schema, "question": question}
        yield Record(
            id=str(index),
            task="spider",
            category="semantic parsing",
            benchmark=_BENCHMARK,
            split_level=level,
            input=question.strip(),
            targets=(query,),
            metric_names=("spider_exact_match", "spider_exact_match_tables"),
            structure=_json(structure),
            metric_context=_json({"query": query, "schema": schema}),
        )


def _multiwoz(rows: Rows, support: Path, level: SplitLevel) -> Iterator[Record]:
    slots, choices = _slots(support)
    for where, row in rows:
        dialogue = string(row, "dial_id", where)
        user, system = [], []
        for number, turn in enumerate(objects(row, "turns", where)):
            place = f"{where}: turn {number}"
            user.append(string(turn, "user", place))
            system.append(string(turn, "system", place))
            state = turn.get("state") or {}
            belief = state.get("slot_values", {}) if isinstance(state, Mapping) else None
            if not isinstance(belief, Mapping):
                raise ValueError(f"{place}: 'state' must be an object with 'slot_values' in it.")
            belief = {slot: string(belief, slot, place) for slot in belief}
            structure = {
                "kind": "dialogue",
                "source": dialogue,
                "ontology": choices,
                "belief": belief,
                "user": list(user),
                "system": list(system),
            }
            items = [f"{slot}-{value}" for slot, value in belief.items()]
            yield Record(
                id=f"{dialogue}#{number}",
                task="multiwoz",
                category="dialogue",
                benchmark=_BENCHMARK,
                split_level=level,
                input=user[-1].lower(),
                targets=(skg_dialogue.target(slots, belief),),
                metric_names=("multiwoz_joint",),
                structure=_json(structure),
                metric_context=_json({"belief": items, "num_slots": len(slots)}),
            )


# kind -> (what its second file holds; empty = there is none, reader)
_Reader = Callable[[Rows, Path, SplitLevel], Iterator[Record]]
_READERS: Mapping[str, tuple[str, _Reader]] = {
    "wikitq": ("tables", _wikitq),
    "tab_fact": ("", _tab_fact),
    "dart": ("", _dart),
    "spider": ("schemas", _spider),
    "multiwoz": ("ontology", _multiwoz),
}


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(p, str) for p in value)


def slot_descriptions(ontology: str | Path) -> Path | None:
    """The file beside MultiWoZ's ontology that has the values of prompts, if it is there."""
    path = Path(ontology).with_name("slot_description.json")
    return path if path.is_file() else None


def _slots(ontology: Path) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    """The tracked slots as states spell them, in the ontology's order, and what each may be."""
    found = {
        slot: _ontology_values(values, f"{ontology}: slot {slot!r}")
        for slot, values in reading.read_object(ontology).items()
    }
    slots = skg_dialogue.slots_of(found)
    described = slot_descriptions(ontology)
    if described is None:
        return slots, {s: found[spelled] for s, spelled in zip(slots, skg_dialogue.tracked(found))}
    values = reading.read_object(described)
    if missing := [slot for slot in slots if slot not in values]:
        raise ValueError(f"{described} has no slot {missing[0]!r}, which {ontology} has.")
    where = f"{described}: slot"
    return slots, {s: _ontology_values(values[s], f"{where} {s!r}") for s in slots}


def _ontology_values(value: Any, where: str) -> list[str]:
    row = value if isinstance(value, Mapping) else {"values": value}
    return list(strings(row, "values", where))


def _table(request: str, table: Table) -> dict[str, Any]:
    content = {"header": list(table.header), "rows": [list(row) for row in table.rows]}
    return {"kind": "table", "request": request, "table": content}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
