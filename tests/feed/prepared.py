"""Small prepared mixtures, written directly with the codec: what `prepare` would have made."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from ul2tune.data import codec, manifest, vocab
from ul2tune.data.ul2 import UL2Config

VOCABULARY = vocab.load(
    {"kind": "pass_through", "base_size": 1000, "extra_ids": 200, "modes": ["R", "S", "X"]}
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task to write: its examples by feature, and the online noise if there is any."""

    name: str
    examples: Sequence[Mapping[str, Sequence[int]]]
    noise: UL2Config | None = None
    vocabulary: vocab.Vocabulary = VOCABULARY
    num_shards: int = 2
    add_eos: bool = False


def documents(count: int, seed: int = 0, low: int = 50, high: int = 900) -> list[dict]:
    """Texts whose tokens say where they come from: document `i` holds 3 + (i, position) mixed."""
    random = np.random.default_rng(seed)
    lengths = random.integers(low, high, count)
    return [
        {"targets": (i * 7919 + np.arange(n) * 31) % 990 + 3}
        for i, n in enumerate(lengths.tolist())
    ]


def pairs(count: int, seed: int = 1, inputs: int = 60, targets: int = 20) -> list[dict]:
    """Fixed examples with EOS; the first input token of example `i` is ``3 + i``."""
    random = np.random.default_rng(seed)
    result = []
    for i in range(count):
        n, m = random.integers(2, inputs), random.integers(1, targets)
        body = random.integers(3, 990, n - 1 + m)
        result.append({"inputs": [3 + i, *body[: n - 1], 1], "targets": [*body[n - 1 :], 1]})
    return result


def write(data_dir: Path, mixture: str, tasks: Sequence[Task], rates=None, split="train") -> Path:
    """Writes shards and manifests; returns the data folder."""
    for task in tasks:
        _write_task(data_dir, task, split)
    rates = rates or [1.0] * len(tasks)
    manifest.write(
        manifest.MixtureManifest(
            name=mixture,
            tasks=tuple(task.name for task in tasks),
            rates=tuple(rate / sum(rates) for rate in rates),
        ),
        manifest.mixture_path(data_dir, mixture),
    )
    return data_dir


def _write_task(data_dir: Path, task: Task, split: str) -> None:
    folder = manifest.task_dir(data_dir, task.name, split)
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({name for example in task.examples for name in example})
    shards = []
    cuts = np.linspace(0, len(task.examples), task.num_shards + 1).astype(int).tolist()
    for i, (start, stop) in enumerate(itertools.pairwise(cuts)):
        path = folder / f"data-{i:05d}-of-{task.num_shards:05d}.arrayrecord"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for example in task.examples[start:stop]:
            arrays = {name: np.asarray(ids, np.int32) for name, ids in example.items()}
            writer.write(codec.encode(codec.Example(arrays=arrays)))
        writer.close()
        data = path.read_bytes()
        shards.append(
            manifest.Shard(
                file=path.name,
                num_examples=stop - start,
                num_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                tokens=_tokens(task.examples[start:stop], names),
            )
        )
    total = _tokens(task.examples, names)
    features = {
        n: {
            "add_eos": task.add_eos,
            "max_tokens": max((len(e[n]) for e in task.examples), default=0),
            "tokens": total[n],
        }
        for n in names
    }
    online = None
    if task.noise is not None:
        online = {"kind": "ul2", "feature": "targets", "config": task.noise.to_json()}
    manifest.write(
        manifest.TaskManifest(
            task=task.name,
            split=split,
            shards=tuple(shards),
            num_examples=len(task.examples),
            features=features,
            vocabulary=task.vocabulary.to_json(),
            fingerprint=hashlib.sha256(b"".join(s.sha256.encode() for s in shards)).hexdigest(),
            online=online,
        ),
        folder / "manifest.json",
    )


def _tokens(examples, names) -> dict[str, int]:
    return {name: sum(len(example[name]) for example in examples) for name in names}


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment read back out of a batch."""

    row: int
    source: str
    inputs: np.ndarray
    targets: np.ndarray


def unpack(batch: Mapping[str, np.ndarray], names: Sequence[str]) -> list[Segment]:
    """The segments of a packed encoder-decoder batch, row by row in order.

    Reads nothing but segment ids, positions and sources, so it fails if any of them is wrong.
    """
    segments = []
    for row in range(len(batch["decoder_target_tokens"])):
        sides = {
            "inputs": (batch["encoder_input_tokens"][row], "encoder"),
            "targets": (batch["decoder_target_tokens"][row], "decoder"),
        }
        for segment in range(1, batch["decoder_segment_ids"][row].max() + 1):
            found = {}
            for side, (tokens, prefix) in sides.items():
                places = np.flatnonzero(batch[f"{prefix}_segment_ids"][row] == segment)
                np.testing.assert_array_equal(np.diff(places), 1)
                np.testing.assert_array_equal(
                    batch[f"{prefix}_positions"][row, places], np.arange(places.size)
                )
                found[side] = tokens[places]
            places = batch["decoder_segment_ids"][row] == segment
            (source,) = set(batch["decoder_source_ids"][row, places].tolist())
            assert np.all(batch["decoder_loss_weights"][row, places] == 1)
            shifted = [0, *found["targets"][:-1]]
            np.testing.assert_array_equal(batch["decoder_input_tokens"][row, places], shifted)
            segments.append(Segment(row=row, source=names[source - 1], **found))
    return segments
