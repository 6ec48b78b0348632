"""Registering MetaICL's tasks from a folder of its prepared files.

folder/<task>/<task>_<k>_<seed>_train.jsonl, …_test.jsonl
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import seqio

from ul2tune.instructions import metaicl, reading
from ul2tune.instructions.metaicl import MetaICL, TaskFile
from ul2tune.prepare.record_tasks import register_record_task, tk_instruct_renderer
from ul2tune.prepare.tasks import VocabularyLike

_FILE = re.compile(r"_(?P<k>\d+)_(?P<seed>\d+)_(?P<split>train|test)\.jsonl")


def register_metaicl(
    folder: str | Path,
    *,
    name: str = "metaicl",
    setting: str | Path | None = None,
    config: MetaICL | None = None,
    seed: int = metaicl.SEEDS[0],
    vocabulary: VocabularyLike = "stdlib",
) -> tuple[str, str]:
    """Registers a task per folder, the mixture `name` of the training tasks and `<name>_eval`.

    A training task reads the training file with the most examples; a test task takes its demos
    from the training file of `config.demos` examples and `seed`, and asks what is in the test file
    of that seed. For average and worst over seeds, see :func:`register_metaicl_seeds`.

    DIVERGES: tasks are drawn equally often; the release shuffles the examples of all tasks (16,384
    of each at most), so that tasks of few examples are drawn less.

    Args:
      folder: your copy of the data.
      name: of the training mixture, and prefix of the tasks' names.
      setting: a JSON file ``{"train": [task, …], "test": [task, …]}`` such as hr_to_lr.json; None
        trains and tests on every task that has the files.
      config: the format; None = `MetaICL`'s defaults.
      seed: of demos and of all draws.
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`.

    Returns:
      The names of the two mixtures; an empty one is not registered and its name is "".

    Raises:
      ValueError: if the folder has another layout, or a task that the setting names is absent.
    """
    folder, config = Path(folder), config or MetaICL()
    roles = _roles(folder, setting)
    mixtures = []
    for role, mixture in (("train", name), ("test", f"{name}_eval")):
        found = _corpora(folder, role, roles[role], config, seed, strict=setting is not None)
        mixtures.append(_register(mixture, found, {seed: mixture}, config, vocabulary))
    if not any(mixtures):
        raise ValueError(f"{folder} has no files <task>/<task>_<k>_<seed>_train.jsonl.")
    return mixtures[0], mixtures[1]


def register_metaicl_seeds(
    folder: str | Path,
    *,
    name: str = "metaicl_eval_seeds",
    setting: str | Path | None = None,
    config: MetaICL | None = None,
    seeds: Sequence[int] = metaicl.SEEDS,
    vocabulary: VocabularyLike = "stdlib",
) -> str:
    """Registers the test tasks of every seed and the mixture `name` of them all.

    `evaluate` then reports average and worst over seeds (`seeds` in `metrics.json`). Tasks are
    called ``<name>_<seed>_<task>``.

    Args:
      folder, setting, config, vocabulary: as for :func:`register_metaicl`.
      name: of the mixture.
      seeds: of the files.

    Returns:
      The name of the mixture; "" if there are no files of these seeds and no setting asks for them.

    Raises:
      ValueError: if a task that the setting names lacks a seed's files.
    """
    folder, config = Path(folder), config or MetaICL()
    names = _roles(folder, setting)["test"]
    found = [
        one
        for seed in seeds
        for one in _corpora(folder, "test", names, config, seed, strict=setting is not None)
    ]
    return _register(name, found, {seed: f"{name}_{seed}" for seed in seeds}, config, vocabulary)


def _corpora(
    folder: Path, role: str, tasks: Sequence[str], config: MetaICL, seed: int, *, strict: bool
) -> list[tuple[str, TaskFile]]:
    """Tasks of one role with their files."""
    found = []
    for task in tasks:
        corpus = _corpus(folder / task, role, config, seed)
        if corpus is not None:
            found.append((task, corpus))
        elif strict:
            raise ValueError(
                f"{folder / task} has no {role} file for k={config.demos}, seed={seed}; files "
                f"are called {task}_<k>_<seed>_{role}.jsonl."
            )
    return found


def _register(
    mixture: str,
    corpora: Sequence[tuple[str, TaskFile]],
    prefixes: Mapping[int, str],
    config: MetaICL,
    vocabulary: VocabularyLike,
) -> str:
    """Registers tasks, called by their seed's prefix, and the mixture if there are any."""
    names = []
    render = tk_instruct_renderer(metaicl.render, config=config)
    for task, corpus in corpora:
        name = re.sub(r"[^\w.]", "_", f"{prefixes[corpus.seed]}_{task}")
        # As MetaICL: neither side has an end of sequence.
        register_record_task(name, corpus, render, vocabulary=vocabulary, seed=corpus.seed, eos=())
        names.append(name)
    if names:
        seqio.MixtureRegistry.add(mixture, names, default_rate=1.0)
    return mixture if names else ""


def _corpus(folder: Path, role: str, config: MetaICL, seed: int) -> TaskFile | None:
    """The task in its role, or None where its files are absent."""
    files: dict[tuple[int, int, str], str] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if found := _FILE.fullmatch(path.name.removeprefix(folder.name)):
            files[int(found["k"]), int(found["seed"]), found["split"]] = str(path)
    if role == "train":
        trained = [key for key in files if key[2] == "train"]
        if not trained:
            return None
        return TaskFile(train=files[max(trained)], demos=config.demos, seed=seed)
    key = (config.demos, seed)
    if (*key, "test") not in files:
        return None
    return TaskFile(
        train=files.get((*key, "train"), ""),
        test=files[*key, "test"],
        demos=config.demos,
        trains=False,
        seed=seed,
    )


def _roles(folder: Path, setting: str | Path | None) -> dict[str, list[str]]:
    if setting is None:
        every = sorted(path.name for path in folder.iterdir() if path.is_dir())
        return {"train": every, "test": every}
    data = reading.read_object(setting)
    roles = {role: [*reading.strings(data, role, str(setting))] for role in ("train", "test")}
    if both := sorted(set(roles["train"]) & set(roles["test"])):
        raise ValueError(f"{setting}: {both[0]!r} is both a training and a test task.")
    return roles
