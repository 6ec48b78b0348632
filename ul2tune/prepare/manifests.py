"""The manifests of what is prepared: made from the shards' receipts, compared with those that are
there, and replaced only where that is allowed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ul2tune import atomic
from ul2tune.data import manifest, stamp
from ul2tune.data.documents import Rejections
from ul2tune.data.manifest import MISSING, PREPARE, MixtureManifest, TaskManifest
from ul2tune.data.vocab import SentencePieceVocabulary, Vocabulary
from ul2tune.data.vocab_base import FileVocabulary
from ul2tune.data.vocab_extended import ExtendedVocabulary
from ul2tune.prepare.folder import Access
from ul2tune.prepare.plan import Plan
from ul2tune.prepare.shards import Receipt, receipt_path
from ul2tune.status_line import say


def up_to_date(plan: Plan, access: Access) -> TaskManifest | None:
    """The manifest of shards that are what the plan would make; None if they are not.

    Where they are, but training-time facts (noise, metrics) changed, the manifest is rewritten.

    Raises:
      ValueError: if they are, but more records were rejected than are allowed now; or if they are
        not, but must not or cannot be replaced.
    """
    folder = manifest.task_dir(access.data_dir, plan.task.name, plan.split)
    try:
        found = manifest.read_task(access.data_dir, plan.task.name, plan.split)
    except FileNotFoundError:
        return None
    except ValueError:
        _check_may_replace(str(folder))
        return None
    if found.fingerprint != plan.fingerprint:
        _check_may_replace(str(folder))
        return None
    paths = [(folder / shard.file, shard.num_bytes) for shard in found.shards]
    if not all(path.is_file() and path.stat().st_size == size for path, size in paths):
        return None
    receipts = _receipts(found)
    _merged(receipts).check(plan.max_rejected_fraction, title(plan))
    wanted = _manifest(plan, receipts, access)
    if _is_of_before_seqio_metrics(found, wanted) and (access.obstacle or not _may_replace()):
        say(
            f"{title(plan)}: an older version prepared it, and `evaluate` gives its metrics texts, "
            f"as that did, until `ul2tune prepare` is run where it may write."
        )
        wanted = found
    if wanted != found:
        _check_may_replace(str(folder))
        access.check(f"the manifest of {title(plan)} is out of date")
        manifest.write(wanted, folder / "manifest.json")
    if not access.obstacle:
        _clear_away(folder, wanted)
    return wanted


def finish(plan: Plan, receipts: list[Receipt], access: Access) -> TaskManifest:
    """Checks what was rejected, writes the manifest last, and removes what it does not name."""
    rejections = _merged(receipts)
    rejections.check(plan.max_rejected_fraction, title(plan))
    if rejections.counts:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(rejections.counts.items()))
        say(f"{title(plan)}: rejected of {rejections.num_records:,} records: {reasons}")
        for example in rejections.examples:
            say(f"  {example}")
    result = _manifest(plan, receipts, access)
    folder = manifest.task_dir(access.data_dir, plan.task.name, plan.split)
    manifest.write(result, folder / "manifest.json")
    _clear_away(folder, result)
    return result


def write_mixture(wanted: MixtureManifest, access: Access, has_train: bool) -> None:
    """Writes the mixture's manifest, keeping the stamps of splits that were prepared before."""
    path = manifest.mixture_path(access.data_dir, wanted.name)
    try:
        found = manifest.read_mixture(access.data_dir, wanted.name)
    except FileNotFoundError:
        found = None
    except ValueError:
        _check_may_replace(str(path))
        found = None
    if found:
        # Without examples to train on, rates are those of whichever splits were asked for.
        is_trained_on = has_train and "train" in found.stamps and "train" not in wanted.stamps
        if is_trained_on and (found.tasks, found.rates) != (wanted.tasks, wanted.rates):
            _check_may_replace(str(path))
        if access.obstacle and _means(found, wanted):
            return
        wanted = dataclasses.replace(wanted, stamps={**found.stamps, **wanted.stamps})
    access.check(f"{path.name} is missing there or out of date")
    manifest.write(wanted, path)


def _means(found: MixtureManifest, wanted: MixtureManifest) -> bool:
    """Whether the manifest that is there means the wanted one: its stamps may be from elsewhere."""
    same = dataclasses.replace(found, stamps={}) == dataclasses.replace(wanted, stamps={})
    stamps, modules = found.stamps, wanted.modules
    return same and not any(
        split not in stamps or stamp.differences(stamps[split], modules) for split in wanted.stamps
    )


def _manifest(plan: Plan, receipts: Sequence[Receipt], access: Access) -> TaskManifest:
    features = {
        name: {
            "add_eos": plan.add_eos[name],
            "eos_after_trim": plan.add_eos[name] and plan.pipeline.append_eos == "after_trim",
            "max_tokens": max((r.max_tokens.get(name, 0) for r in receipts), default=0),
            "tokens": sum(r.shard.tokens.get(name, 0) for r in receipts),
        }
        for name in plan.features
    }
    for name, facts in features.items():
        # Not known of a shard that an older version made, nor worth rewriting its manifest for.
        if receipts and all(name in receipt.max_ids for receipt in receipts):
            facts["max_id"] = max(receipt.max_ids[name] for receipt in receipts)
    rejections = _merged(receipts)
    return TaskManifest(
        task=plan.task.name,
        split=plan.split,
        shards=tuple(receipt.shard for receipt in receipts),
        num_examples=sum(receipt.shard.num_examples for receipt in receipts),
        features=features,
        vocabulary=_keep_vocabulary(plan.vocabulary, access),
        fingerprint=plan.fingerprint,
        online=plan.pipeline.online,
        metrics=plan.scoring.metrics,
        seqio_metrics=plan.scoring.seqio_metrics,
        num_records=rejections.num_records,
        rejected=dict(sorted(rejections.counts.items())),
        rejected_examples=tuple(rejections.examples),
    )


def _receipts(found: TaskManifest) -> list[Receipt]:
    """Receipts that would give this manifest; the first one has all that was rejected."""
    receipts = [
        Receipt(
            fingerprint=found.fingerprint,
            shard=shard,
            max_tokens={name: f["max_tokens"] for name, f in found.features.items()},
            max_ids={n: f["max_id"] for n, f in found.features.items() if "max_id" in f},
        )
        for shard in found.shards
    ]
    if receipts:
        receipts[0] = dataclasses.replace(
            receipts[0],
            num_records=found.num_records,
            rejected=found.rejected,
            rejected_examples=found.rejected_examples,
        )
    return receipts


def _merged(receipts: Sequence[Receipt]) -> Rejections:
    """What the source rejected in all shards."""
    merged = Rejections()
    for receipt in receipts:
        examples = list(receipt.rejected_examples)
        found = Rejections(num_records=receipt.num_records, examples=examples)
        found.counts.update(receipt.rejected)
        merged.merge(found)
    return merged


def _keep_vocabulary(vocabulary: Vocabulary, access: Access) -> dict[str, Any]:
    """Copies a model file beside the data it made; returns the description with its new place."""
    description = vocabulary.to_json()
    if isinstance(vocabulary, ExtendedVocabulary):
        description["base"] = _keep_vocabulary(vocabulary.base, access)
    if isinstance(vocabulary, FileVocabulary):
        suffix = "model" if isinstance(vocabulary, SentencePieceVocabulary) else "tokenizer.json"
        path = Path("vocabularies") / f"{vocabulary.fingerprint}.{suffix}"
        target = access.data_dir / path
        if not target.is_file():
            access.check(f"{path} is missing there")
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_bytes(target, vocabulary.read_model())
        description["file"] = path.as_posix()
    return description


def _clear_away(folder: Path, wanted: TaskManifest) -> None:
    """Removes shards, receipts and temporary files that are not the manifest's."""
    paths = [folder / shard.file for shard in wanted.shards]
    kept = {*paths, *map(receipt_path, paths)}
    for path in [*folder.glob("data-*.arrayrecord"), *folder.glob(".data-*")]:
        if path not in kept:
            path.unlink()


def _is_of_before_seqio_metrics(found: TaskManifest, wanted: TaskManifest) -> bool:
    """Whether nothing else is new: no reason to refuse data to a run that trains on it."""
    if found.seqio_metrics is not None or wanted.seqio_metrics is None:
        return False
    new = {"metrics": wanted.metrics, "seqio_metrics": wanted.seqio_metrics}
    return dataclasses.replace(found, **new) == wanted


def _may_replace() -> bool:
    return os.environ.get(PREPARE) != MISSING


def _check_may_replace(what: str) -> None:
    if not _may_replace():
        raise ValueError(
            f"{what} was made by another version, or before its task, vocabulary or text changed; "
            "run `ul2tune prepare` to prepare it again, which replaces it for every run that reads "
            "it, or use another DATA_DIR."
        )


def title(plan: Plan) -> str:
    """What messages call a plan: its task and split."""
    return f"{plan.task.name}/{plan.split}"
