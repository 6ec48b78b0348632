"""Records of UnifiedSKG -> prompts: one renderer for tables, schemas, triples and dialogues."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from ul2tune.instructions.records import Record, Rendered, stable_hash
from ul2tune.instructions.skg import dialogue, tables, triples
from ul2tune.instructions.skg import schema as skg_schema
from ul2tune.instructions.skg.config import TaskConfig
from ul2tune.instructions.skg.prompt import Knowledge, Structured, compose
from ul2tune.instructions.skg.schema import ColumnValues
from ul2tune.instructions.skg.tables import Table
from ul2tune.instructions.tokenizer import Tokenizer
from ul2tune.metrics.sql_schema import DatabaseSchema

DEFAULT_TASK = TaskConfig(name="default", kind="")


def render(
    record: Record,
    seed: int,
    *,
    tokenizer: Tokenizer | None = None,
    task: TaskConfig = DEFAULT_TASK,
    describe: bool = False,
    knowledge: Knowledge = "concatenate",
    values: ColumnValues | None = None,
) -> Rendered:
    """Renders one record of `records`.

    Args:
      record: its `structure` says what is written out.
      seed: of the rows deleted from tables that are too long, with the record's id.
      tokenizer: counts tables' tokens; without one nothing is cut.
      task: how it is written.
      describe: start with the task's description.
      knowledge: where the structure goes: `skg.prompt.compose`.
      values: of databases, for `task.cell_values`.

    Raises:
      ValueError: if the record has no structure, or `task.cell_values` lacks `values`.
    """
    parts = _parts(record, seed, tokenizer, task, values)
    description = task.description if describe else ""
    return Rendered(
        inputs=compose(parts.text, parts.structure, description=description, knowledge=knowledge),
        targets=parts.target,
        answer_choices=record.answer_choices or (),
        truncated=parts.truncated,
        metric_context=parts.metric_context,
    )


def _parts(
    record: Record,
    seed: int,
    tokenizer: Tokenizer | None,
    task: TaskConfig,
    values: ColumnValues | None,
) -> Structured:
    structure = json.loads(record.structure) if record.structure else {}
    match structure.get("kind"):
        case "table":
            return _table(record, structure, seed, tokenizer, task)
        case "schema":
            return _schema(record, structure, task, values)
        case "triples":
            knowledge = triples.linearize(structure["triples"])
            return Structured(text="", structure=knowledge, target=record.targets[0])
        case "dialogue":
            return _dialogue(record, structure)
    raise ValueError(f"record {record.id!r} of {record.task!r} is not one of UnifiedSKG's.")


def _table(
    record: Record,
    structure: Mapping[str, Any],
    seed: int,
    tokenizer: Tokenizer | None,
    task: TaskConfig,
) -> Structured:
    table = whole = Table.from_json(structure["table"], f"record {record.id!r}")
    target = record.targets[0]
    if tokenizer is not None:
        # Answers are known in training only; cells that are answers are cut in both places.
        answers = structure.get("answers", ()) if record.split_level == "train" else ()
        table, answers = tables.truncate(
            whole,
            structure["request"],
            answers,
            tokenizer=tokenizer,
            rng=random.Random(stable_hash(seed, record.task, record.id)),
            max_tokens=task.table_tokens or tables.TABLE_TOKENS,
        )
        target = ", ".join(answers).lower() if answers else target
    return Structured(
        text=record.input,
        structure=tables.linearize(table).lower(),
        target=target,
        truncated=table != whole,
    )


def _schema(
    record: Record, structure: Mapping[str, Any], task: TaskConfig, values: ColumnValues | None
) -> Structured:
    if task.cell_values and values is None:
        raise ValueError(f"task {task.name!r} mentions cell values, so it needs the databases.")
    schema = DatabaseSchema.from_json(structure["schema"], f"record {record.id!r}")
    write = skg_schema.describe if task.sentences else skg_schema.linearize
    knowledge = write(schema, structure["question"], values if task.cell_values else None)
    query = skg_schema.normalize_sql(record.targets[0])
    if not task.db_id_in_target:
        return Structured(text=record.input, structure=knowledge, target=query)
    context = {**json.loads(record.metric_context or "{}"), "db_id_in_target": True}
    return Structured(
        text=record.input,
        structure=knowledge,
        target=f"{schema.db_id} | {query}",
        metric_context=json.dumps(context, ensure_ascii=False),
    )


def _dialogue(record: Record, structure: Mapping[str, Any]) -> Structured:
    said = dialogue.history(structure["user"], structure["system"])
    slot = structure.get("slot")
    return Structured(
        text=said if slot is None else f"{slot}: {said}",
        structure=dialogue.linearize(structure["ontology"]),
        target=record.targets[0],
    )
