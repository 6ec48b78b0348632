"""Registering Super-NaturalInstructions from a folder in the layout of its repository.

folder/tasks/task001_….json   folder/splits/default/train_tasks.txt, test_tasks.txt
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import seqio

from ul2tune.first_names import first_names
from ul2tune.instructions import superni, tk_instruct
from ul2tune.instructions.superni import TaskFile
from ul2tune.instructions.tk_instruct import TkInstruct
from ul2tune.prepare.record_tasks import register_record_task, tk_instruct_renderer
from ul2tune.prepare.record_text import RecordText
from ul2tune.prepare.tasks import VocabularyLike

# The published `tk_instruct` mode: one of five encodings per training example, the default to test.
TK_INSTRUCT: Mapping[str, Sequence[TkInstruct]] = {
    "train": tk_instruct.MIXED_ENCODINGS,
    "test": (TkInstruct(),),
}

# Of a list's missing tasks.
_NAMED = 3


def register_superni(
    folder: str | Path,
    *,
    name: str = "superni",
    track: str = "default",
    encodings: Sequence[TkInstruct] | Mapping[str, Sequence[TkInstruct]] = (TkInstruct(),),
    vocabulary: VocabularyLike = "stdlib",
    train_limit: int | None = 100,
    infer_choices: bool = True,
    seed: int = 0,
) -> tuple[str, str]:
    """Registers a task per file, the mixture `name` of the training tasks and `<name>_eval`.

    Listed tasks whose file is absent are left out with a note: the whole repository has 3 GB.

    Args:
      folder: your copy.
      name: of the training mixture, and prefix of the tasks' names.
      track: folder under `splits`: ``"default"`` (English) or ``"xlingual"``, whose ROUGE-L
        counts GPT-2's pieces instead of words (`ul2tune.metrics.byte_bpe`).
      encodings: what prompts consist of; one is drawn per example where there are several. Those of
        ``"train"`` and ``"test"`` tasks may differ: :data:`TK_INSTRUCT`.
      vocabulary: as for `ul2tune.prepare.tasks.seqio_vocabulary`.
      train_limit: instances per training task (Tk-Instruct: 100), drawn by `seed`.
      infer_choices: rank answer choices of tasks whose outputs are a closed set.
      seed: of all draws.

    Returns:
      The names of the two mixtures.

    Raises:
      ValueError: if the folder has another layout, no task of a split list is there, or two tasks
        cannot be told apart.
    """
    folder = Path(folder)
    if not isinstance(encodings, Mapping):
        encodings = {"train": encodings, "test": encodings}
    present = {split: _present(folder, track, split) for split in ("train", "test")}
    _check_different(folder, track, present["train"], present["test"])
    mixtures = {}
    for split, held_out in (("train", False), ("test", True)):
        names = []
        render = tk_instruct_renderer(tk_instruct.render, encodings=tuple(encodings[split]))
        for task in present[split]:
            corpus = TaskFile(
                path=str(folder / "tasks" / f"{task}.json"),
                held_out=held_out,
                # As Tk-Instruct, training tasks give all their instances to training.
                eval_instances=superni.EVAL_INSTANCES if held_out else 0,
                train_limit=train_limit,
                infer_choices=infer_choices,
                rouge="rouge_l_gpt2" if track == "xlingual" else "rouge_l",
                seed=seed,
            )
            names.append(f"{name}_{_slug(task)}")
            register_record_task(names[-1], corpus, render, vocabulary=vocabulary, seed=seed)
        mixture = f"{name}_eval" if held_out else name
        # Every task as often as another: they have equally many instances.
        seqio.MixtureRegistry.add(mixture, names, default_rate=1.0)
        mixtures[split] = mixture
    return mixtures["train"], mixtures["test"]


def training_text(folder: str | Path, *, train_limit: int | None = 100) -> RecordText:
    """The text of the training tasks at hand, for a small model of its own: nothing held out.

    Args:
      folder: your copy.
      train_limit: instances per task, as for :func:`register_superni`.
    """
    tasks = Path(folder) / "tasks"
    corpora = tuple(
        TaskFile(path=str(tasks / f"{task}.json"), eval_instances=0, train_limit=train_limit)
        for task in _present(Path(folder), "default", "train")
    )
    return RecordText(corpora=corpora, render=tk_instruct.render)


def _present(folder: Path, track: str, split: str) -> list[str]:
    path = _list(folder, track, split)
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist. Give the folder that has tasks/ and splits/{track}/ in it."
        )
    listed = superni.read_split(path)
    if not listed:
        raise ValueError(f"{path} is empty. Write one task's name a line, without .json.")
    there = {task: (folder / "tasks" / f"{task}.json").is_file() for task in listed}
    present = [task for task in listed if there[task]]
    absent = [task for task in listed if not there[task]]
    first = first_names(absent, _NAMED)
    if not present:
        raise ValueError(
            f"{folder / 'tasks'} has none of the {len(listed)} tasks of {path} ({first})."
        )
    if absent:
        print(
            f"Note: {len(present)} of {len(listed)} tasks of {path} are in {folder / 'tasks'}; "
            f"the others are left out ({first}).",
            file=sys.stderr,
        )
    return present


def _check_different(folder: Path, track: str, train: Sequence[str], test: Sequence[str]) -> None:
    """Raises ValueError for a task in both lists, and for two of one name in SeqIO."""
    tested = set(test)
    if both := [task for task in train if task in tested]:
        raise ValueError(
            f"{_list(folder, track, 'train')} and {_list(folder, track, 'test')} both list "
            f"{both[0]}. A task trained on is no held-out one: take it out of one of the lists."
        )
    known: dict[str, str] = {}
    for task in (*train, *test):
        other = known.setdefault(_slug(task), task)
        if other != task:
            paths = [folder / "tasks" / f"{name}.json" for name in (other, task)]
            raise ValueError(
                f"{paths[0]} and {paths[1]} would both be SeqIO's task {_slug(task)}: its names "
                "have '_' for all but letters, digits, '_' and '.'. Rename one, in its list too."
            )


def _list(folder: Path, track: str, split: str) -> Path:
    return folder / "splits" / track / f"{split}_tasks.txt"


def _slug(task: str) -> str:
    # SeqIO's task names allow no hyphen; some files' names have one.
    return "".join(c if c.isalnum() or c in "_." else "_" for c in task)
