"""Rows of data sets under PromptSource templates, as records.

Rows are files of your own, exported from Hugging Face data sets (`to_json`), one JSON object per
line with the columns' names as keys and class labels as numbers:

    rows/super_glue/cb/train.jsonl     rows/super_glue/cb/validation.jsonl.gz
    rows/ag_news/train.jsonl           rows/anli/train_r1.jsonl, dev_r1.jsonl, …
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ul2tune.instructions import reading
from ul2tune.instructions.promptsource import templates
from ul2tune.instructions.promptsource.templates import Template
from ul2tune.instructions.records import Record, Rendered, SplitLevel, stable_hash

_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
# ANLI's rounds are splits with names of their own.
_ROUND_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
_SCORES: Mapping[str, tuple[str, ...]] = {
    "Accuracy": ("exact_match",),
    "ROUGE": ("rouge_l",),
    "Squad": ("squad_exact_match", "token_f1"),
    "Span Squad": ("squad_exact_match", "token_f1"),
    "Trivia QA": ("trivia_qa_exact_match", "trivia_qa_f1"),
}


@dataclass(frozen=True, kw_only=True)
class PromptedRows:
    """A data set under one template, as a corpus of records.

    Attributes:
      name: of the prompt task; with `seed` and the row's number it keys the template's draws.
      dataset_name: what all prompts of the data set share; the records' task.
      template: the prompt.
      row_files: (split, file) pairs.
      category: kind of task.
      held_out: nothing of the data set is trained on.
      seed: of the templates' draws.
    """

    name: str
    dataset_name: str
    template: Template
    row_files: tuple[tuple[str, str], ...]
    category: str = ""
    held_out: bool = False
    seed: int = 0

    @property
    def splits(self) -> tuple[str, ...]:
        """SeqIO splits."""
        return tuple(split for split, _ in self.row_files)

    def read(self, split: str) -> Iterator[Record]:
        """The records of one split; rows that the template does not apply to are left out.

        Raises:
          ValueError: if a row is malformed or the template fails on it, with file and line.
        """
        prompt = self.template.compile()
        level: SplitLevel = "train" if split == "train" else "supervised"
        if self.held_out:
            level = "held_out"
        path = dict(self.row_files)[split]
        for number, row in reading.read_json_lines(path):
            seed = stable_hash(self.seed, self.name, split, number)
            try:
                rendered = templates.render(prompt, row, seed=seed)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
            if rendered is not None:
                yield self._record(f"{split}-{number}", rendered, level)

    def fingerprint(self) -> str:
        """Of template, options and the files' bytes."""
        options = replace(self, row_files=(), template=replace(self.template, where=""))
        return reading.fingerprint((path for _, path in self.row_files), options, self.splits)

    def _record(self, name: str, rendered: Rendered, level: SplitLevel) -> Record:
        choices = rendered.answer_choices or None
        scores = [score for metric in self.template.metrics for score in _SCORES.get(metric, ())]
        ranks = ("rank_accuracy_sum",) if choices else ()
        return Record(
            id=name,
            task=self.dataset_name,
            category=self.category,
            benchmark="promptsource",
            split_level=level,
            input=rendered.inputs,
            targets=(rendered.targets,),
            answer_choices=choices,
            template_id=self.template.id,
            metric_names=tuple(dict.fromkeys((*ranks, *scores))),
        )


def render(record: Record, seed: int) -> Rendered:
    """The renderer of these records, whose text is made already."""
    del seed  # the corpus has used its own
    return Rendered(
        inputs=record.input,
        targets=record.targets[0],
        answer_choices=record.answer_choices or (),
    )


def find_rows(
    folder: str | Path, dataset: str, subset: str | None, round: str = ""
) -> tuple[tuple[str, str], ...]:
    """(split, file) pairs of a data set, sorted; empty if there are none.

    `round` selects files such as ``train_r1.jsonl`` and names their splits without it.

    Raises:
      ValueError: if a split has two files, or the data set's name leads out of the folder.
    """
    place = reading.inside(folder, dataset, *([subset] if subset else []))
    found: dict[str, str] = {}
    for path in sorted(place.glob("*.jsonl*")):
        split = path.name.partition(".jsonl")[0]
        if not path.name.endswith(_ENDINGS) or not path.is_file():
            continue
        if round:
            stem, _, ending = split.rpartition("_")
            if ending != round or stem not in _ROUND_SPLITS:
                continue
            split = _ROUND_SPLITS[stem]
        if split in found:
            raise ValueError(f"{place}: {found[split]} and {path} are both split {split!r}.")
        found[split] = str(path)
    return tuple(sorted(found.items()))
