"""Super-NaturalInstructions: task files -> records (`tk_instruct` renders them).

Source: Wang et al. 2022 (arXiv:2204.07705). `superni_file` reads the task files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ul2tune.instructions import reading
from ul2tune.instructions.records import Record, SplitLevel, stable_hash
from ul2tune.instructions.superni_file import Instance, Task, load_task

# Tk-Instruct evaluates the first 100 instances of a task: balanced by label, in the file's order.
EVAL_INSTANCES = 100
DEFAULT_METRICS = ("exact_match", "token_f1", "rouge_l")
# What Tk-Instruct reports for the twelve categories of the English test tasks.
CATEGORY_METRICS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "Textual Entailment",
            "Cause Effect Classification",
            "Coreference Resolution",
            "Dialogue Act Recognition",
            "Answerability Classification",
            "Word Analogy",
        ),
        "exact_match",
    ),
    **dict.fromkeys(
        (
            "Overlap Extraction",
            "Keyword Tagging",
            "Question Rewriting",
            "Title Generation",
            "Data to Text",
            "Grammar Error Correction",
        ),
        "rouge_l",
    ),
}


def read_split(path: str | Path) -> tuple[str, ...]:
    """Reads a list of task names, one per line (`splits/default/test_tasks.txt`).

    Raises:
      ValueError: on a name that appears twice or is no file name, with its line.
    """
    names: dict[str, int] = {}
    for number, line in enumerate(reading.read_text(path).splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if len(name.split()) != 1 or "/" in name or "\\" in name:
            raise ValueError(f"{path}:{number}: {name!r} is not the name of a task.")
        if name.endswith(".json"):
            raise ValueError(
                f"{path}:{number}: {name!r} is a file's name; a task's has no .json: leave it out."
            )
        if name in names:
            raise ValueError(f"{path}:{number}: {name!r} is already listed on line {names[name]}.")
        names[name] = number
    return tuple(names)


def split_hash(names: Sequence[str]) -> str:
    """16 hexadecimal digits for a list of names in order; published with every score."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def select(
    instances: Sequence[Instance],
    limit: int | None,
    *,
    seed: int,
) -> tuple[Instance, ...]:
    """At most `limit` instances, in the file's order; a larger limit keeps all of a smaller one's.

    DIVERGES: Tk-Instruct shuffles with Python's global generator, so its choice depends on every
    task read before. Ours depends on (seed, instance id) alone.
    """
    if limit is None or limit >= len(instances):
        return tuple(instances)
    ranked = sorted(instances, key=lambda instance: stable_hash(seed, "select", instance.id))
    chosen = {instance.id for instance in ranked[:limit]}
    return tuple(instance for instance in instances if instance.id in chosen)


def metric_names(category: str, rouge: str = "rouge_l") -> tuple[str, ...]:
    """The scores of a task, its category's own first; ROUGE-L if Tk-Instruct names none.

    `rouge` is ``"rouge_l_gpt2"`` in the cross-lingual track.
    """
    own = CATEGORY_METRICS.get(category, "rouge_l")
    named = dict.fromkeys((own, *DEFAULT_METRICS))
    return tuple(rouge if name == "rouge_l" else name for name in named)


def records(
    task: Task,
    instances: Sequence[Instance] | None = None,
    *,
    split_level: SplitLevel = "train",
    any_definition: bool = False,
    rouge: str = "rouge_l",
    seed: int = 0,
) -> Iterator[Record]:
    """One record per instance (default: all of the task).

    `any_definition` draws the phrasing per instance where a task has several; `rouge` is as for
    :func:`metric_names`.
    """
    names = metric_names(task.category, rouge)
    for instance in task.instances if instances is None else instances:
        draw = stable_hash(seed, "definition", instance.id) if any_definition else 0
        yield Record(
            id=instance.id,
            task=task.name,
            category=task.category,
            benchmark="super_natural_instructions",
            license=task.license,
            split_level=split_level,
            instruction=task.definitions[draw % len(task.definitions)],
            input=instance.input,
            targets=instance.outputs,
            answer_choices=task.answer_choices,
            demos=task.demos,
            metric_names=names,
        )


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """A task file as a corpus of records with a training and a validation split.

    As in Tk-Instruct, the first `eval_instances` are for evaluation. A task held out from training
    has only those; of a trained task they are its held-out examples (DIVERGES: Tk-Instruct trains
    on all instances of its training tasks).

    Attributes:
      path: the file.
      held_out: whether the whole task is held out: no training split.
      eval_instances: size of the validation split; 0 = none.
      train_limit: at most so many training instances, drawn by `seed`; None = all.
      any_definition: draw the phrasing where there are several.
      infer_choices: derive answer choices where the file declares none.
      rouge: which ROUGE-L scores the task, see :func:`metric_names`.
      seed: of these draws.
    """

    path: str
    held_out: bool = False
    eval_instances: int = EVAL_INSTANCES
    train_limit: int | None = None
    any_definition: bool = False
    infer_choices: bool = False
    rouge: str = "rouge_l"
    seed: int = 0

    @property
    def splits(self) -> tuple[str, ...]:
        """SeqIO splits."""
        train = () if self.held_out else ("train",)
        return (*train, "validation") if self.eval_instances else train

    def read(self, split: str) -> Iterator[Record]:
        """The records of one split.

        Raises:
          ValueError: if the file is malformed.
        """
        task = load_task(self.path)
        if self.infer_choices and task.answer_choices is None:
            task = replace(task, answer_choices=infer_answer_choices(task))
        level: SplitLevel = "held_out" if self.held_out else "supervised"
        instances = task.instances[: self.eval_instances]
        if split == "train":
            level = "train"
            rest = task.instances[self.eval_instances :]
            instances = select(rest, self.train_limit, seed=self.seed)
        return records(
            task,
            instances,
            split_level=level,
            any_definition=self.any_definition,
            rouge=self.rouge,
            seed=self.seed,
        )

    def fingerprint(self) -> str:
        """Of the file's bytes and the options."""
        return reading.fingerprint([self.path], replace(self, path=""))


def infer_answer_choices(task: Task, maximum: int = 6) -> tuple[str, ...] | None:
    """The closed set of answers, for task files that do not declare theirs.

    A task counts as classification if all its instances have one reference, of at most `maximum`
    different ones, and each of those answers at least three instances.
    """
    counts = Counter(output for instance in task.instances for output in instance.outputs)
    single = all(len(instance.outputs) == 1 for instance in task.instances)
    closed = 2 <= len(counts) <= maximum and min(counts.values()) >= 3
    return tuple(sorted(counts)) if single and closed else None
