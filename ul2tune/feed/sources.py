"""A prepared mixture, opened: its tasks with their stores, noise and source ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ul2tune.data import convert, manifest, mixing, rng, vocab
from ul2tune.data.ul2 import UL2Config, UL2Noise
from ul2tune.data.vocab_info import VocabInfo
from ul2tune.feed.checks import check_complete, check_features, check_one_vocabulary, check_room
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.store import Readers, Store

_ORDER = 2  # what the seed is folded with for the order of documents


@dataclass(frozen=True, kw_only=True)
class Example:
    """A fixed example, ready to place: truncated, with EOS where the task wants one."""

    inputs: np.ndarray
    targets: np.ndarray
    raw_tokens: int
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class Source:
    """One task of the mixture.

    Attributes:
      name: SeqIO name.
      manifest: what was prepared.
      store: its examples.
      noise: what turns its running text into inputs and targets; None for fixed examples.
      text_feature: the feature that holds the running text.
      size: documents or examples in use (`FeedConfig.max_examples`).
      first_id: source id of its first denoiser, or of all its examples.
    """

    name: str
    manifest: manifest.TaskManifest
    store: Store
    noise: UL2Noise | None
    text_feature: str
    size: int
    first_id: int


class Sources:
    """All tasks of a mixture.

    Args:
      config: what is fed.

    Attributes:
      config: the argument.
      manifests: of the tasks, in the mixture's order.
      tasks: the sources, in the same order.
      rates: how often each is drawn, in proportion; 0 for a task without examples in the split.
      names: of the source ids 1, 2, …: ``task/denoiser`` for running text, otherwise ``task``.
      noises: the different noises of the tasks; see :attr:`noise_of`.
      vocabulary: the one vocabulary of all tasks.
      info: its reserved ids.

    Raises:
      FileNotFoundError: if the mixture or a task of it is not prepared.
      ValueError: if tasks disagree on the vocabulary, a feature is missing, or the feature lengths
        cannot hold a segment.
    """

    def __init__(self, config: FeedConfig):
        self.config = config
        mixture = manifest.read_mixture(config.data_dir, config.mixture)
        self.manifests = tuple(
            manifest.read_task(config.data_dir, task, config.split) for task in mixture.tasks
        )
        check_one_vocabulary(self.manifests)
        self.vocabulary = vocab.load(self.manifests[0].vocabulary, root=config.data_dir)
        self.info = self.vocabulary.info
        self._readers = Readers()
        noises: dict[str, UL2Noise] = {}
        tasks: list[Source] = []
        names: list[str] = []
        for task in self.manifests:
            source = self._open(task, noises, first_id=len(names) + 1)
            tasks.append(source)
            if source.noise is None:
                names.append(task.task)
            else:
                names += [f"{task.task}/{denoiser}" for denoiser in source.noise.names]
        self.tasks, self.names = tuple(tasks), tuple(names)
        # A task without examples in this split is left out of the mixture, as in SeqIO; its source
        # ids stay reserved, so that they mean the same in every split.
        self.rates = tuple(
            rate if task.size else 0.0 for rate, task in zip(mixture.rates, self.tasks, strict=True)
        )
        if not any(self.rates):
            advice = "prepare other sources."
            if config.split != "train":
                advice = (
                    "hold some out (validation_fraction of a text task, validation of "
                    "register_chat), name another split, or train without validation: "
                    "--gin.EVAL_PERIOD=None."
                )
            raise ValueError(
                f"Mixture {config.mixture!r} has no examples in split {config.split!r}: {advice}"
            )
        # Denoisers of all tasks with the same configuration are applied in one call.
        self.noises = tuple(noises.values())

    @property
    def fingerprints(self) -> dict[str, Any]:
        """By task, all that its examples depend on: the prepared data, and what is done to it
        online. JSON."""
        return {
            task.task: {
                "fingerprint": task.fingerprint,
                "online": task.online,
                "eos": {name: eos_of(facts) for name, facts in sorted(task.features.items())},
            }
            for task in self.manifests
        }

    @cached_property
    def source_rates(self) -> np.ndarray:
        """float64: of all draws, the share that is meant for each source id from 1 on."""
        parts = [
            rate * np.array((1.0,) if task.noise is None else task.noise.config.probabilities)
            for rate, task in zip(self.rates, self.tasks, strict=True)
        ]
        return np.concatenate(parts) / sum(self.rates)

    @cached_property
    def noise_of(self) -> np.ndarray:
        """int64 [T] number of each task's noise in `noises`, -1 for fixed examples."""
        return np.array(
            [-1 if t.noise is None else self.noises.index(t.noise) for t in self.tasks], np.int64
        )

    @cached_property
    def sizes(self) -> np.ndarray:
        """int64 [T] documents of each task."""
        return np.array([task.size for task in self.tasks], np.int64)

    @cached_property
    def first_ids(self) -> np.ndarray:
        """int64 [T] first source id of each task."""
        return np.array([task.first_id for task in self.tasks], np.int64)

    def document_index(self, task_N: np.ndarray, ordinal_N: np.ndarray) -> np.ndarray:
        """int64 [N] stored index of each task's `ordinal`-th document, epoch after epoch."""
        if not self.config.shuffle:
            return ordinal_N % self.sizes[task_N]
        return mixing.document_index(self._order_keys[task_N], ordinal_N, self.sizes[task_N])

    @cached_property
    def _order_keys(self) -> np.ndarray:
        names = np.array([mixing.key_of(task.name) for task in self.tasks], np.uint64)
        return rng.fold_in(self.config.seed, _ORDER, names)

    def texts(self, task: int, indices: np.ndarray) -> list[np.ndarray]:
        """Token ids of documents of running text, with the separator after each."""
        source = self.tasks[task]
        documents = [e.arrays[source.text_feature] for e in source.store.read(indices)]
        if self.config.document_separator == "none":
            return documents
        eos = np.array([self.info.eos_id], np.int32)
        return [np.concatenate([document, eos]) for document in documents]

    def examples(self, task: int, indices: np.ndarray) -> list[Example]:
        """Fixed examples, ready to place."""
        source = self.tasks[task]
        return [self._example(source, e.arrays) for e in source.store.read(indices)]

    def _example(self, source: Source, arrays: Mapping[str, np.ndarray]) -> Example:
        sides, cut = {}, False
        for name in ("inputs", "targets"):
            tokens = arrays.get(name, np.empty(0, np.int32))
            eos = eos_of(source.manifest.features.get(name, {}))
            if eos is not None:
                tokens = np.append(tokens, np.int32(self.info.eos_id))
            # A feature the layout has no length for cannot occur: `_open` refuses it.
            length = self.config.feature_lengths.get(name, 0)
            if name == "inputs" and self.config.two_sided and not tokens.size:
                # With nothing of its own to see, a decoder segment would attend to all others.
                tokens = np.array([self.info.eos_id], np.int32)
            cut |= tokens.size > length
            keeps = eos == "after_trim"
            trimmed = convert.truncate(tokens, length, self.info.eos_id) if keeps else tokens
            sides[name] = trimmed[:length]
        raw = sides["inputs"].size + sides["targets"].size
        return Example(**sides, raw_tokens=raw, truncated=cut)

    def close(self) -> None:
        """Closes all files."""
        self._readers.close()

    def _open(
        self, task: manifest.TaskManifest, noises: dict[str, UL2Noise], first_id: int
    ) -> Source:
        config, noise, feature = self.config, None, "targets"
        check_complete(task)
        if task.online is not None:
            key = repr([task.online["kind"], task.online.get("config")])
            noise = noises.get(key) or make_noise(task.task, task.online, self.info, config)
            noises[key], feature = noise, task.online["feature"]
        size = min(task.num_examples, config.max_examples or task.num_examples)
        if size:
            check_features(task, feature, config)
        verify = config.verify_checksums
        store = Store(config.data_dir, task, self._readers, verify_checksums=verify)
        return Source(
            name=task.task,
            manifest=task,
            store=store,
            noise=noise,
            text_feature=feature,
            size=size,
            first_id=first_id,
        )


def make_noise(
    task: str, online: Mapping[str, Any], vocabulary: VocabInfo, config: FeedConfig
) -> UL2Noise:
    """What turns a task's running text into inputs and targets, as a feed wants them.

    Args:
      task: its name.
      online: its transform, see `TaskManifest.online`.
      vocabulary: the reserved ids of its vocabulary.
      config: the layout, the feature lengths and the bounds of segments.

    Raises:
      ValueError: for a transform that is not known, or whose segments find no room.
    """
    if online["kind"] != "ul2":
        raise ValueError(
            f"Task {task!r} was prepared for an online transform of kind {online['kind']!r}; this "
            "version knows 'ul2'. Prepare it again."
        )
    noise = UL2Config.from_json(online["config"])
    if noise.is_causal and not config.two_sided:
        # Inputs would be an EOS alone. A language model reads the text, as SeqIO's does.
        noise = dataclasses.replace(noise, inputs_eos=False)
    found = UL2Noise(noise, vocabulary)
    check_room(task, found, config)
    return found


def eos_of(facts: Mapping[str, Any]) -> str | None:
    """When the feed appends EOS to a feature: ``"after_trim"`` (too long an example keeps it) or
    ``"before_trim"``; older manifests do not say."""
    if not facts.get("add_eos"):
        return None
    return "after_trim" if facts.get("eos_after_trim", True) else "before_trim"
