"""`prepare`: any registered SeqIO task or mixture -> tokenized, indexed shards and manifests.

    DATA_DIR/<task>/<split>/data-00000-of-00004-5eed5eed.arrayrecord, …, manifest.json
    DATA_DIR/<mixture>.mixture.json
    DATA_DIR/vocabularies/<fingerprint>.model

What is there and up to date is left alone: a rerun goes on where the last one stopped, and writes
nothing where nothing changed, so that read-only folders can be checked. With
UL2TUNE_PREPARE=missing nothing is replaced: data of another task, vocabulary or text is then an
error.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import seqio

from ul2tune.data import manifest, stamp
from ul2tune.data.documents import MAX_REJECTED_FRACTION, Rejections
from ul2tune.data.manifest import MISSING, PREPARE, MixtureManifest, TaskManifest
from ul2tune.data.rates import flat
from ul2tune.data.vocab import SentencePieceVocabulary, Vocabulary
from ul2tune.data.vocab_extended import ExtendedVocabulary
from ul2tune.data.vocab_tokenizer_json import TokenizerJsonVocabulary
from ul2tune.prepare import inputs, runners
from ul2tune.prepare.folder import Access, hold
from ul2tune.prepare.plan import Plan, check_one_vocabulary, find_tasks, make_plan
from ul2tune.prepare.progress import Progress
from ul2tune.prepare.rates import mixture_share
from ul2tune.prepare.shards import Receipt, receipt_path
from ul2tune.prepare.sources import DocumentSource
from ul2tune.prepare.task_modules import import_modules

_BEAM = "beam"
# A run asks for both, whichever it reads: a mixture may lack one of them.
_USUAL_SPLITS = ("train", "validation")


def prepare(
    mixture: str,
    modules: Sequence[str],
    data_dir: str,
    splits: Sequence[str] = _USUAL_SPLITS,
    num_shards: int | None = None,
    num_workers: int = 0,
    max_rejected_fraction: float = MAX_REJECTED_FRACTION,
    runner: str = "processes",
) -> None:
    """Prepares every task of a mixture.

    Args:
      mixture: name of a SeqIO task or mixture.
      modules: Python modules whose import registers it.
      data_dir: where prepared data lives: a local or mounted folder.
      splits: SeqIO splits. A task without one of them gets an empty manifest for it, as SeqIO
        leaves such a task out of a mixture. One that no task has is refused, but for ``train`` or
        ``validation`` beside the other.
      num_shards: per task and split; None chooses by the size of the input alone.
      num_workers: processes; 1 works in this one, 0 chooses by machine and size.
      max_rejected_fraction: more malformed records than this are an error.
      runner: ``"processes"``, or ``"beam"`` followed by Beam's pipeline options.

    Raises:
      ValueError: on anything wrong with the tasks, their files or these arguments.
    """
    if "://" in data_dir:
        raise ValueError(f"data_dir must be a local or mounted folder, got {data_dir!r}.")
    if num_shards is not None and num_shards < 1:
        raise ValueError(f"num_shards must be at least 1 or None, got {num_shards}.")
    if not 0 <= max_rejected_fraction <= 1:
        raise ValueError(
            f"PREPARE_MAX_REJECTED (max_rejected_fraction) is {max_rejected_fraction}: it is a "
            "share of all records, from 0 to 1."
        )
    if runner != "processes" and runner.split(" ")[0] != _BEAM:
        raise ValueError(f'runner must be "processes" or "beam --flags", got {runner!r}.')
    import_modules(modules)
    tasks = find_tasks(mixture)
    _check_splits(mixture, tasks, splits, data_dir)
    with hold(Path(data_dir)) as access:
        check_one_vocabulary(mixture, tasks)
        made_from = stamp.make(modules, {path for task in tasks for path in inputs.paths(task)})
        for task in tasks:
            for split in splits:
                plan = make_plan(task, split, num_shards, max_rejected_fraction)
                if not _up_to_date(plan, access):
                    access.check(f"{_title(plan)} is missing there or out of date")
                    receipts = _run(plan, tuple(modules), data_dir, num_workers, runner)
                    _finish(plan, receipts, access)
        counts = {
            (task.name, split): _num_examples(task.name, split, data_dir)
            for task in tasks
            for split in {*splits, "train"}
        }
        if not any(counts.values()):
            raise ValueError(_no_examples(mixture, tasks, splits, data_dir))
        share = mixture_share(mixture, _sizes(counts))
        rates = dict(sorted(flat(share).items()))
        wanted = MixtureManifest(
            name=mixture,
            tasks=tuple(rates),
            rates=tuple(rates.values()),
            modules=tuple(modules),
            tree=share.to_json(),
            stamps=dict.fromkeys(splits, made_from),
        )
        has_train = any(count for (_, split), count in counts.items() if split == "train")
        _write_mixture(wanted, access, has_train)


def _check_splits(
    mixture: str, tasks: Sequence[seqio.Task], splits: Sequence[str], data_dir: str
) -> None:
    """Refuses splits that no task has, before anything is written for them."""
    there = {split for task in tasks for split in task.splits}
    absent = [split for split in splits if split not in there]
    unusual = [split for split in absent if split not in _USUAL_SPLITS]
    in_vain = absent and len(absent) == len(splits)
    if unusual or (in_vain and not any(_num_examples(t.name, "train", data_dir) for t in tasks)):
        raise ValueError(
            f"No task of {mixture!r} has a split {(unusual or absent)[0]!r} (PREPARE_SPLITS, "
            f"EVAL_SPLIT). Name one of those they have: {', '.join(map(repr, sorted(there)))}."
        )


def _no_examples(
    mixture: str, tasks: Sequence[seqio.Task], splits: Sequence[str], data_dir: str
) -> str:
    entries = [(task, manifest.read_task(data_dir, task.name, splits[0])) for task in tasks]
    reasons = [reason for entry in entries if (reason := inputs.why_empty(*entry))]
    return " ".join([f"{mixture!r} has no examples in splits {tuple(splits)}.", *reasons[:5]])


def _write_mixture(wanted: MixtureManifest, access: Access, has_train: bool) -> None:
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


def _check_may_replace(what: str) -> None:
    if os.environ.get(PREPARE) == MISSING:
        raise ValueError(
            f"{what} was made by another version, or before its task, vocabulary or text changed; "
            "run `ul2tune prepare` to prepare it again, which replaces it for every run that reads "
            "it, or use another DATA_DIR."
        )


def _sizes(counts: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Examples by task that rates are computed from: of the training split, where there is one."""
    train = {task: count for (task, split), count in counts.items() if split == "train"}
    if any(train.values()):
        return train
    # For evaluation alone; rates only have to exist.
    return {task: max(counts[key] for key in counts if key[0] == task) for task in train}


def _num_examples(task: str, split: str, data_dir: str) -> int:
    try:
        return manifest.read_task(data_dir, task, split).num_examples
    except FileNotFoundError:
        return 0  # only other splits were asked for


def _up_to_date(plan: Plan, access: Access) -> bool:
    """Whether the shards are what the plan would make.

    If they are, but training-time facts (noise, metrics) changed, the manifest is rewritten.

    Raises:
      ValueError: if they are, but more records were rejected than are allowed now; or if they are
        not, but must not or cannot be replaced.
    """
    folder = manifest.task_dir(access.data_dir, plan.task.name, plan.split)
    try:
        found = manifest.read_task(access.data_dir, plan.task.name, plan.split)
    except FileNotFoundError:
        return False
    except ValueError:
        _check_may_replace(str(folder))
        return False
    if found.fingerprint != plan.fingerprint:
        _check_may_replace(str(folder))
        return False
    sizes = {shard.file: shard.num_bytes for shard in found.shards}
    paths = {name: folder / name for name in sizes}
    whole = all(p.is_file() and p.stat().st_size == sizes[name] for name, p in paths.items())
    if not whole:
        return False
    receipts = [
        Receipt(
            fingerprint=plan.fingerprint,
            shard=shard,
            max_tokens={name: f["max_tokens"] for name, f in found.features.items()},
            max_ids={n: f["max_id"] for n, f in found.features.items() if "max_id" in f},
            num_records=found.num_records if i == 0 else 0,
            rejected=found.rejected if i == 0 else {},
            rejected_examples=found.rejected_examples if i == 0 else (),
        )
        for i, shard in enumerate(found.shards)
    ]
    _merged(receipts).check(plan.max_rejected_fraction, _title(plan))
    wanted = _manifest(plan, receipts, access)
    if wanted != found:
        _check_may_replace(str(folder))
        access.check(f"the manifest of {_title(plan)} is out of date")
        manifest.write(wanted, folder / "manifest.json")
    if not access.obstacle:
        _clear_away(folder, wanted)
    _say(f"{_title(plan)}: up to date, {found.num_examples:,} examples")
    return True


def _run(
    plan: Plan, modules: tuple[str, ...], data_dir: str, num_workers: int, runner: str
) -> list[Receipt]:
    """Makes the missing shards of one plan, beside those that its manifest names so far."""
    if not plan.num_shards:
        return []
    source = plan.task.source
    corpus = source.corpus if isinstance(source, DocumentSource) else None
    num_bytes = corpus.num_bytes() if corpus else None
    progress = Progress(title=_title(plan), num_shards=plan.num_shards, total_bytes=num_bytes)
    workers = runners.choose_num_workers(num_workers, plan.num_shards, num_bytes)
    if runner.startswith(_BEAM):
        items = runners.works(plan, modules, data_dir)
        receipts = runners.run_on_beam(items, runner.removeprefix(_BEAM), progress)
    elif workers == 1:
        receipts = runners.run_here(plan, data_dir, progress)
    else:
        items = runners.works(plan, modules, data_dir)
        receipts = runners.run_in_processes(items, workers, progress)
    progress.close()
    return receipts


def _finish(plan: Plan, receipts: list[Receipt], access: Access) -> None:
    """Checks what was rejected, writes the manifest last, and removes what it does not name."""
    rejections = _merged(receipts)
    rejections.check(plan.max_rejected_fraction, _title(plan))
    if rejections.counts:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(rejections.counts.items()))
        _say(f"{_title(plan)}: rejected of {rejections.num_records:,} records: {reasons}")
        for example in rejections.examples:
            _say(f"  {example}")
    result = _manifest(plan, receipts, access)
    folder = manifest.task_dir(access.data_dir, plan.task.name, plan.split)
    manifest.write(result, folder / "manifest.json")
    _clear_away(folder, result)


def _clear_away(folder: Path, wanted: TaskManifest) -> None:
    """Removes shards, receipts and temporary files that are not the manifest's."""
    paths = [folder / shard.file for shard in wanted.shards]
    kept = {*paths, *map(receipt_path, paths)}
    for path in [*folder.glob("data-*.arrayrecord"), *folder.glob(".data-*")]:
        if path not in kept:
            path.unlink()


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
        metrics=plan.metrics,
        num_records=rejections.num_records,
        rejected=dict(sorted(rejections.counts.items())),
        rejected_examples=tuple(rejections.examples),
    )


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
    if isinstance(vocabulary, SentencePieceVocabulary | TokenizerJsonVocabulary):
        suffix = "model" if isinstance(vocabulary, SentencePieceVocabulary) else "tokenizer.json"
        path = Path("vocabularies") / f"{vocabulary.fingerprint}.{suffix}"
        target = access.data_dir / path
        if not target.is_file():
            access.check(f"{path} is missing there")
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            temporary.write_bytes(vocabulary.read_model())
            os.replace(temporary, target)
        description["file"] = path.as_posix()
    return description


def _title(plan: Plan) -> str:
    return f"{plan.task.name}/{plan.split}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
