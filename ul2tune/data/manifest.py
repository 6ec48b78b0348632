"""What `prepare` promises and `feed` checks: the manifests beside the shards, as plain JSON.

    DATA_DIR/<task>/<split>/manifest.json                 one per task and split
    DATA_DIR/<task>/<split>/data-00000-of-00004-5eed5eed.arrayrecord
    DATA_DIR/<mixture>.mixture.json                       tasks and effective rates

A manifest is written last and atomically: where it exists, every shard it names is complete.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, TypeVar

from ul2tune import atomic
from ul2tune.data.rates import Share, share_leaves
from ul2tune.data.seqio_metrics import SeqioMetrics

FORMAT_VERSION = 1

# The environment variable by which a run asks `ul2tune prepare` to replace nothing, and its value.
PREPARE, MISSING = "UL2TUNE_PREPARE", "missing"
_Manifest = TypeVar("_Manifest")
_KINDS = {bool: "true or false", dict: "an object", int: "an integer", str: "a text"}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One finished file. `tokens` counts by feature; `sha256` is over the file's bytes."""

    file: str
    num_examples: int
    num_bytes: int
    sha256: str
    tokens: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class TaskManifest:
    """One split of one prepared task.

    Attributes:
      task, split: SeqIO names.
      shards: the finished shards in order; example index = position in their concatenation.
      num_examples: total examples.
      features: per SeqIO feature ``{"add_eos": bool, "eos_after_trim": bool, "max_tokens": longest,
        "tokens": total, "max_id": largest}``; `add_eos` asks the feed to end the feature with EOS
        (never set where `online` appends its own), `eos_after_trim` to keep it where the feature is
        too long. Older manifests have no `max_id`.
      vocabulary: description understood by `ul2tune.data.vocab.load`, with its ``fingerprint``. A
        SentencePiece file is relative to the data folder, which holds a copy:
        ``vocab.load(manifest.vocabulary, root=data_dir)``.
      fingerprint: hash of everything that determines the shards' bytes (source files,
        preprocessors, vocabulary).
      online: JSON configuration of the transform that runs at training time, or None. UL2 noise is
        ``{"kind": "ul2", "feature": "targets", "config": UL2Config.to_json()}``: the prepared
        examples hold only the raw text's ids under that feature.
      metrics: dotted names of metric functions (modules without TensorFlow) that get references
        and answers as texts.
      seqio_metrics: of a task that this package did not register, in their place; None where an
        older version prepared it, which gave its `metrics` texts.
      num_records: read from the source, where it counts them, for all splits together; else 0.
      rejected: number of malformed ones by reason; `rejected_examples` names the first few (file,
        line).
    """

    task: str
    split: str
    shards: tuple[Shard, ...]
    num_examples: int
    features: Mapping[str, Mapping[str, Any]]
    vocabulary: Mapping[str, Any]
    fingerprint: str
    online: Mapping[str, Any] | None = None
    metrics: tuple[str, ...] = ()
    seqio_metrics: SeqioMetrics | None = None
    num_records: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    rejected_examples: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Of all metric functions, for people."""
        seqio = self.seqio_metrics.functions if self.seqio_metrics else ()
        return (*self.metrics, *(function.name for function in seqio))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TaskManifest:
        values = dict(data)
        values["shards"] = tuple(Shard(**shard) for shard in values["shards"])
        for name in ("metrics", "rejected_examples"):
            values[name] = _texts(name, values.get(name, ()))
        if values.get("seqio_metrics") is not None:
            values["seqio_metrics"] = SeqioMetrics.from_json(values["seqio_metrics"])
        manifest = TaskManifest(**values)
        for name in (manifest.task, manifest.split, *(shard.file for shard in manifest.shards)):
            _check_name(name)
        _check_vocabulary(manifest.vocabulary)
        _check("vocabulary.fingerprint", manifest.vocabulary.get("fingerprint"), str)
        _check_features(manifest.features)
        _check_online(manifest.online)
        counts = [shard.num_examples for shard in manifest.shards]
        if min(counts, default=0) < 0 or sum(counts) != manifest.num_examples:
            raise ValueError(f"shards of {counts} examples, {manifest.num_examples} in all")
        return manifest


@dataclass(frozen=True, kw_only=True)
class MixtureManifest:
    """The tasks a mixture draws from.

    Attributes:
      name: of the mixture.
      tasks: those with a rate above 0.
      rates: their effective rates, normalised to sum 1.
      modules: `TASK_MODULES`, so that a child process can prepare what is missing.
      tree: what the rates come from (`ul2tune.data.rates.Share.to_json`), for `inspect`; None in
        folders that an older version prepared.
      stamps: by split, what the data was made from (`ul2tune.data.stamp`).
    """

    name: str
    tasks: tuple[str, ...]
    rates: tuple[float, ...]
    modules: tuple[str, ...] = ()
    tree: Mapping[str, Any] | None = None
    stamps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @cached_property
    def all_tasks(self) -> tuple[str, ...]:
        """What is evaluated: also the tasks that are never drawn, such as those without training
        examples where rates are proportional to these. Only the tree names those.
        """
        if self.tree is None:
            return self.tasks
        return tuple(sorted({leaf.name for leaf in share_leaves(Share.from_json(self.tree))}))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> MixtureManifest:
        values = dict(data)
        for name in ("tasks", "modules"):
            values[name] = _texts(name, values[name])
        values["rates"] = tuple(values["rates"])
        manifest = MixtureManifest(**values)
        for name in (manifest.name, *manifest.tasks, *manifest.all_tasks):
            _check_name(name)
        rates = manifest.rates
        if len(rates) != len(manifest.tasks) or not all(0 <= r < math.inf for r in rates):
            raise ValueError(f"rates {rates} of {len(manifest.tasks)} tasks")
        return manifest


def _check_name(name: str) -> None:
    """A manifest may come from elsewhere: no name in it may lead out of its folder."""
    if not isinstance(name, str) or name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
        raise ValueError(f"{name!r} is not a bare name")


def _check(place: str, value: Any, kind: type) -> None:
    """A manifest may be edited by hand: what is used later must have its type."""
    if type(value) is not kind:  # not isinstance: `true` is no integer
        raise ValueError(f"{place} is {value!r}, expected {_KINDS[kind]}")


def _texts(place: str, values: Any) -> tuple[str, ...]:
    """A list of texts; a single text would silently become a list of its letters."""
    if not isinstance(values, list | tuple) or not all(isinstance(text, str) for text in values):
        raise ValueError(f"{place} is {values!r}, expected a list of texts")
    return tuple(values)


def _check_vocabulary(vocabulary: Mapping[str, Any]) -> None:
    """The vocabulary's file, or that of the vocabulary it extends, is in the data folder."""
    _check("vocabulary", vocabulary, dict)
    for names, kind in ((("kind", "file", "sha256"), str), (("base_size", "extra_ids"), int)):
        for name in names:
            _check(f"vocabulary.{name}", vocabulary.get(name, kind()), kind)
    for name in ("modes", "added"):
        _texts(f"vocabulary.{name}", vocabulary.get(name, ()))
    file = vocabulary.get("file", "")
    if file.startswith(("/", "~")) or ".." in PurePath(file).parts or "://" in file:
        raise ValueError(f"the vocabulary's file {file!r} is not in the data folder")
    if "base" in vocabulary:
        _check_vocabulary(vocabulary["base"])


def _check_features(features: Mapping[str, Mapping[str, Any]]) -> None:
    _check("features", features, dict)
    for name, facts in features.items():
        _check(f"features.{name}", facts, dict)
        for fact in ("tokens", "max_tokens", "max_id", "add_eos", "eos_after_trim"):
            if fact in facts:
                kind = bool if "eos" in fact else int
                _check(f"features.{name}.{fact}", facts[fact], kind)


def _check_online(online: Mapping[str, Any] | None) -> None:
    if online is None:
        return
    _check("online", online, dict)
    _check("online.kind", online.get("kind"), str)
    if online["kind"] == "ul2":  # the one this version knows
        _check("online.feature", online.get("feature", ""), str)
        _check("online.config", online.get("config", {}), dict)


def task_dir(data_dir: str | Path, task: str, split: str) -> Path:
    return Path(data_dir) / task / split


def mixture_path(data_dir: str | Path, mixture: str) -> Path:
    return Path(data_dir) / f"{mixture}.mixture.json"


def write(manifest: TaskManifest | MixtureManifest, path: Path) -> None:
    """Writes atomically: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = dataclasses.asdict(manifest)
    if values.get("seqio_metrics", ...) is None:
        del values["seqio_metrics"]  # versions that do not know it read all other manifests
    text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False)
    atomic.write_text(path, text + "\n")


def read_task(data_dir: str | Path, task: str, split: str) -> TaskManifest:
    """Reads a task's manifest.

    Raises:
      FileNotFoundError: if the task is not prepared (`ul2tune prepare` makes it).
      ValueError: if the file is from another version or damaged.
    """
    return _read(task_dir(data_dir, task, split) / "manifest.json", TaskManifest.from_json)


def read_mixture(data_dir: str | Path, mixture: str) -> MixtureManifest:
    """Reads a mixture's manifest; raises as :func:`read_task`, naming the mixtures there are."""
    return _read(mixture_path(data_dir, mixture), MixtureManifest.from_json)


def _read(path: Path, parse: Callable[[Mapping[str, Any]], _Manifest]) -> _Manifest:
    if not path.is_file():
        end = mixture_path("", "").name
        there = sorted(p.name.removesuffix(end) for p in path.parent.glob(f"*{end}"))
        holds = f" {path.parent} holds {', '.join(there)}." if there else ""
        raise FileNotFoundError(
            f"{path} does not exist. Run `ul2tune prepare` for this mixture, or set DATA_DIR to "
            f"where it was prepared.{holds}"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__}, expected an object")
        if data.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"format_version {data.get('format_version')}, expected {FORMAT_VERSION}"
            )
        return parse(data)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is not a readable manifest ({error}). Delete its folder and prepare again."
        ) from error
