"""MMLU: its CSV files -> records -> the prompts of Hendrycks et al. 2021 (arXiv:2009.03300).

    folder/dev/<subject>_dev.csv      five worked examples
    folder/test/<subject>_test.csv    the questions; or all of them in folder/test_csv.tar.gz

Rows are ``question,A,B,C,D,answer``: in the published layout without a header and with a letter, in
copies with a header (``question,choice0,…,answer``, ``input,A,B,C,D,target``) and a letter or an
index. All are read; a header in another order is refused. An archive is read in memory; nothing is
extracted, whatever its members are called.

The prompt is that of the authors' `evaluate_flan.py`, its two spaces before the subject included:

    The following are multiple choice questions (with answers) about  abstract algebra.

    {question}
    A. {choice}
    …
    Answer: B

    …
    {query}
    …
    Answer:

Scores (`ul2tune.evaluation`): ``rank_accuracy_first_token`` compares the probabilities of the four
letters at the first decoder step, as the authors do; ``rank_accuracy_sum`` those of the whole
answers, end of sequence included. Means are over *questions* in ``overall``, ``clusters`` (the 4
categories) and ``categories`` (the 17 subcategories), over *subjects* in ``mean_over_tasks``; the
two differ.

DIVERGES: the authors read with pandas, which rewrites some numbers ("0.50" to "0.5"); we keep text.
"""

from __future__ import annotations

import csv
import functools
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from ul2tune.instructions import reading
from ul2tune.instructions.records import Demo, Record, Rendered
from ul2tune.instructions.suites.mmlu_subjects import CLUSTERS, SUBCATEGORIES
from ul2tune.instructions.tokenizer import Tokenizer

LETTERS = ("A", "B", "C", "D")
MAX_TOKENS = 2048
ARCHIVE = "test_csv.tar.gz"
_NUM_COLUMNS = 6
# The first and last columns' names in a header.
_QUESTION, _ANSWER = ("question", "input"), ("answer", "target")
# The headline first: the authors' score, or that of the whole text.
_METRICS: Mapping[str, tuple[str, ...]] = {
    "letters": ("rank_accuracy_first_token", "mmlu"),
    "texts": ("rank_accuracy_sum", "exact_match"),
}
_MAX_FILE_BYTES = 16 * 2**20
_MAX_BYTES = 64 * 2**20  # of all subjects
_NAME = re.compile(r"[a-z_]+_(dev|test|val)\.csv")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row: `answer` is the index of the right choice."""

    text: str
    choices: tuple[str, str, str, str]
    answer: int

    def block(self) -> str:
        """The question and its lettered choices."""
        lines = [f"\n{letter}. {text}" for letter, text in zip(LETTERS, self.choices, strict=True)]
        return self.text + "".join(lines)


def subjects(folder: str | Path) -> tuple[str, ...]:
    """The subjects whose worked examples are in `folder`, sorted.

    Raises:
      ValueError: if there are none, or one is not MMLU's.
    """
    paths = sorted((Path(folder) / "dev").glob("*_dev.csv"))
    names = tuple(path.stem.removesuffix("_dev") for path in paths)
    if not names:
        raise ValueError(f"{Path(folder) / 'dev'} has no file <subject>_dev.csv.")
    for name in names:
        if name not in SUBCATEGORIES:
            raise ValueError(f"{Path(folder) / 'dev'}: {name!r} is not a subject of MMLU.")
    return names


def read_questions(data: bytes, where: str) -> tuple[Question, ...]:
    """Parses one CSV file of either layout.

    Raises:
      ValueError: naming `where`, the line and what is wrong.
    """
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{where}: not a CSV file in UTF-8 ({error}).") from error
    if rows and _is_header([name.strip().lower() for name in rows[0][1]]):
        del rows[0]
    if not rows:
        raise ValueError(f"{where}: no questions.")
    return tuple(_question(row, f"{where}:{line}") for line, row in rows)


def _is_header(names: list[str]) -> bool:
    return names[0] in _QUESTION and names[-1] in _ANSWER


def _question(row: list[str], where: str) -> Question:
    if len(row) != _NUM_COLUMNS:
        raise ValueError(f"{where}: expected {_NUM_COLUMNS} columns, got {len(row)}.")
    text, a, b, c, d, answer = row
    answers = {**{letter: i for i, letter in enumerate(LETTERS)}, **{str(i): i for i in range(4)}}
    if answer not in answers:
        raise ValueError(f"{where}: the answer must be a letter A-D or 0-3, got {answer!r}.")
    return Question(text=text, choices=(a, b, c, d), answer=answers[answer])


def load(
    folder: str | Path, subject: str, *, answers: Literal["letters", "texts"] = "letters"
) -> Iterator[Record]:
    """The test questions of one subject with its worked examples; ids are ``<subject>-<position>``.

    Args:
      folder: laid out as above.
      subject: ``"abstract_algebra"``, ….
      answers: whether answers are the letters, as published, or the choices' texts (of which a few
        questions have the same one twice).

    Raises:
      ValueError: naming the file, the line and what is wrong.
    """
    path = Path(folder) / "dev" / f"{subject}_dev.csv"
    demos = tuple(
        Demo(input=q.block(), target=_choices(q, answers)[q.answer], id=f"dev-{index}")
        for index, q in enumerate(read_questions(reading.read_bytes(path), str(path)))
    )
    data, where = _test_file(Path(folder), f"{subject}_test.csv")
    subcategory = SUBCATEGORIES[subject]
    for index, question in enumerate(read_questions(data, where)):
        choices = _choices(question, answers)
        yield Record(
            id=f"{subject}-{index}",
            task=subject,
            category=subcategory,
            cluster=CLUSTERS[subcategory],
            benchmark="mmlu",
            license="MIT",
            split_level="held_out",
            instruction=instruction(subject),
            input=question.block(),
            targets=(choices[question.answer],),
            answer_choices=tuple(dict.fromkeys(choices)),
            demos=demos,
            template_style="fs_opt",
            metric_names=_METRICS[answers],
        )


def instruction(subject: str) -> str:
    """The first line, without its blank line; the authors put two spaces before the subject."""
    words = "".join(f" {word}" for word in subject.split("_"))
    return f"The following are multiple choice questions (with answers) about {words}."


def render(
    record: Record,
    seed: int = 0,
    *,
    tokenizer: Tokenizer | None = None,
    shots: int = 5,
    max_tokens: int = MAX_TOKENS,
) -> Rendered:
    """The authors' prompt for a record of :func:`load`; nothing in it is random.

    The first `shots` worked examples are shown; as long as the prompt is longer than `max_tokens`
    (end of sequence included), the last of them is left out.

    Args:
      record: the question.
      seed: unused.
      tokenizer: counts tokens; None = no limit.
      shots: worked examples, 0-5.
      max_tokens: limit of the prompt.
    """
    del seed
    head, query = f"{record.instruction}\n\n", f"{record.input}\nAnswer:"
    blocks = [f"{demo.input}\nAnswer: {demo.target}\n\n" for demo in record.demos[:shots]]
    while tokenizer is not None and blocks:
        if len(tokenizer.encode(head + "".join(blocks) + query)) + 1 <= max_tokens:
            break
        del blocks[-1]
    # The answer begins with a space: the piece "▁A" is the letter's in every vocabulary that has
    # one, and T5's drops and adds the space by itself.
    return Rendered(
        inputs=head + "".join(blocks) + query,
        targets=f" {record.targets[0]}",
        answer_choices=tuple(f" {choice}" for choice in record.answer_choices or ()),
        demo_ids=tuple(demo.id for demo in record.demos[: len(blocks)]),
    )


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject as a corpus with a validation split; fields as for :func:`load`."""

    folder: str
    subject: str
    answers: Literal["letters", "texts"] = "letters"

    splits = ("validation",)

    def read(self, split: str) -> Iterator[Record]:
        """All questions.

        Raises:
          ValueError: if a file is malformed.
        """
        return load(self.folder, self.subject, answers=self.answers)

    def fingerprint(self) -> str:
        """Of both files' bytes and the options."""
        data, _ = _test_file(Path(self.folder), f"{self.subject}_test.csv")
        dev = Path(self.folder) / "dev" / f"{self.subject}_dev.csv"
        return reading.fingerprint([dev], self.subject, self.answers, data)


def _test_file(folder: Path, name: str) -> tuple[bytes, str]:
    """The bytes of a test file, and what to call it."""
    path = folder / "test" / name
    archive = folder / ARCHIVE
    if path.is_file() or not archive.is_file():
        return reading.read_bytes(path), str(path)
    files = read_archive(archive, archive.stat().st_mtime_ns)
    if name not in files:
        raise ValueError(f"{archive} has no member {name}.")
    return files[name], f"{archive}:{name}"


@functools.lru_cache(maxsize=2)
def read_archive(path: Path, stamp: int = 0) -> dict[str, bytes]:
    """The CSV files in an archive by their base names, read in memory.

    Args:
      path: a ``.tar.gz``.
      stamp: changes when the file does; part of the cache's key.

    Raises:
      ValueError: if it is no archive, a member has a path that leads out of it, is too big or no
        regular file, two have one name, or all are too big together.
    """
    files: dict[str, bytes] = {}
    room = _MAX_BYTES
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.isdir():
                    continue
                inside = PurePosixPath(member.name)
                _check_member(member, inside, path)
                if _NAME.fullmatch(inside.name):
                    if inside.name in files:
                        raise ValueError(f"{path} has two members called {inside.name}.")
                    room -= member.size
                    if room < 0:
                        raise ValueError(f"{path} unpacks to over {_MAX_BYTES:,} bytes.")
                    content = archive.extractfile(member)
                    assert content is not None, member
                    files[inside.name] = content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a readable .tar.gz ({error}).") from error
    return files


def _check_member(member: tarfile.TarInfo, inside: PurePosixPath, path: Path) -> None:
    if inside.is_absolute() or ".." in inside.parts or not member.isfile():
        raise ValueError(f"{path} has the member {member.name!r}: only plain files are accepted.")
    if member.size > _MAX_FILE_BYTES:
        raise ValueError(f"{path}: {member.name} has {member.size:,} bytes, which no subject has.")


def _choices(question: Question, answers: Literal["letters", "texts"]) -> tuple[str, ...]:
    if answers not in ("letters", "texts"):
        raise ValueError(f"answers must be 'letters' or 'texts', got {answers!r}.")
    return LETTERS if answers == "letters" else question.choices
