"""MMLU's files and prompts."""

from __future__ import annotations

import io
import tarfile

import pytest

from ul2tune.data import vocab
from ul2tune.instructions.suites import mmlu
from ul2tune.instructions.suites.mmlu import Subject
from ul2tune.instructions.suites.mmlu_subjects import CLUSTERS, SUBCATEGORIES

BYTES = vocab.load("bytes")
DEV = "".join(f'"Sum {n}, and 1?",0,{n + 1},2x,"3, 4",B\n' for n in range(5))
TEST = 'Which?\n,a,b,a,d,A\n"Two\nlines",1,2,3,4,3\n'.replace("Which?\n,", "Which?,")
PROMPT = (
    "The following are multiple choice questions (with answers) about  college physics.\n\n"
    + "".join(f"Sum {n}, and 1?\nA. 0\nB. {n + 1}\nC. 2x\nD. 3, 4\nAnswer: B\n\n" for n in range(5))
    + "Which?\nA. a\nB. b\nC. a\nD. d\nAnswer:"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "dev/college_physics_dev.csv").write_text(DEV)
    (tmp_path / "test/college_physics_test.csv").write_text(TEST)
    return tmp_path


def archive(path, *members: tuple[str, str], type: bytes = tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as file:
        for name, text in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(text), type
            file.addfile(info, io.BytesIO(text.encode()))


def test_the_prompt_to_the_byte(folder):
    first, second = mmlu.load(folder, "college_physics")
    rendered = mmlu.render(first)
    assert rendered.inputs == PROMPT
    assert rendered.targets == " A"
    assert rendered.answer_choices == (" A", " B", " C", " D")
    assert rendered.demo_ids == tuple(f"dev-{n}" for n in range(5))
    assert (first.category, first.cluster) == ("physics", "STEM")
    assert second.input == "Two\nlines\nA. 1\nB. 2\nC. 3\nD. 4"
    assert second.targets == ("D",)


def test_examples_are_left_out_until_the_prompt_fits(folder):
    record = next(mmlu.load(folder, "college_physics"))

    def shown(limit: int) -> int:
        return len(mmlu.render(record, tokenizer=BYTES, max_tokens=limit).demo_ids)

    full = len(PROMPT) + 1
    assert [shown(limit) for limit in (full, full - 1, 300, 10)] == [5, 4, 3, 0]
    two = mmlu.render(record, shots=2)
    assert two.demo_ids == ("dev-0", "dev-1")


def test_texts_as_answers(folder):
    first, second = mmlu.load(folder, "college_physics", answers="texts")
    rendered = mmlu.render(first)
    assert rendered.targets == " a"
    assert rendered.answer_choices == (" a", " b", " d")  # two of the choices are the same
    assert rendered.inputs.count("\nAnswer: 1\n\n") == 1
    assert second.targets == ("4",)
    with pytest.raises(ValueError, match="answers must be"):
        list(mmlu.load(folder, "college_physics", answers="words"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "header",
    [
        "question,choice0,choice1,choice2,choice3,answer",
        "input,A,B,C,D,target",
        "\ufeffQuestion,A,B,C,D,Answer\r",
    ],
)
def test_copies_with_a_header(folder, header):
    path = folder / "test/college_physics_test.csv"
    expected = list(mmlu.load(folder, "college_physics"))
    path.write_text(f"{header}\n" + TEST.replace("A\n", "0\n"), newline="")
    assert list(mmlu.load(folder, "college_physics")) == expected


def test_a_header_in_another_order_is_refused(folder):
    """Its columns would be read as others."""
    path = folder / "test/college_physics_test.csv"
    path.write_text("A,B,C,D,question,answer\n" + TEST)
    with pytest.raises(ValueError, match=r"test\.csv:1: the answer must be .* got 'answer'"):
        list(mmlu.load(folder, "college_physics"))


def test_an_archive_is_read_in_memory(folder):
    expected = list(mmlu.load(folder, "college_physics"))
    before = Subject(folder=str(folder), subject="college_physics").fingerprint()
    (folder / "test/college_physics_test.csv").unlink()
    archive(folder / "test_csv.tar.gz", ("test/college_physics_test.csv", TEST), ("README", "x"))
    assert list(mmlu.load(folder, "college_physics")) == expected
    assert Subject(folder=str(folder), subject="college_physics").fingerprint() == before
    assert sorted(p.name for p in folder.iterdir()) == ["dev", "test", "test_csv.tar.gz"]


@pytest.mark.parametrize(
    ("name", "type", "message"),
    [
        ("../college_physics_test.csv", tarfile.REGTYPE, "only plain files"),
        ("/etc/college_physics_test.csv", tarfile.REGTYPE, "only plain files"),
        ("college_physics_test.csv", tarfile.SYMTYPE, "only plain files"),
        ("other_test.csv", tarfile.REGTYPE, "has no member college_physics_test.csv"),
    ],
)
def test_hostile_archives(folder, name, type, message):
    (folder / "test/college_physics_test.csv").unlink()
    archive(folder / "test_csv.tar.gz", (name, TEST), type=type)
    with pytest.raises(ValueError, match=message):
        list(mmlu.load(folder, "college_physics"))


def test_damaged_archives(folder, monkeypatch):
    (folder / "test/college_physics_test.csv").unlink()
    path = folder / "test_csv.tar.gz"
    path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"not a readable \.tar\.gz"):
        mmlu.read_archive(path)
    archive(path, ("a/x_test.csv", TEST), ("b/x_test.csv", TEST))
    with pytest.raises(ValueError, match=r"two members called x_test\.csv"):
        mmlu.read_archive(path, 1)
    monkeypatch.setattr(mmlu, "_MAX_FILE_BYTES", 10)
    with pytest.raises(ValueError, match="which no subject has"):
        mmlu.read_archive(path, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,c\n", r"college_physics_test\.csv:1: expected 6 columns, got 3"),
        ("q,a,b,c,d,A\nq,a,b,c,d,E\n", r":2: the answer must be a letter A-D or 0-3, got 'E'"),
        ("", "no questions"),
        ('q,"a,b', "not a CSV file"),
    ],
)
def test_a_malformed_file_is_named_with_the_reason(folder, content, message):
    (folder / "test/college_physics_test.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(mmlu.load(folder, "college_physics"))


def test_folders(folder, tmp_path):
    assert mmlu.subjects(folder) == ("college_physics",)
    (folder / "dev/cooking_dev.csv").write_text(DEV)
    with pytest.raises(ValueError, match="'cooking' is not a subject"):
        mmlu.subjects(folder)
    with pytest.raises(ValueError, match="has no file"):
        mmlu.subjects(tmp_path / "test")


def test_subjects_and_their_groups():
    assert (len(SUBCATEGORIES), len(set(SUBCATEGORIES.values())), len(CLUSTERS)) == (57, 17, 17)
    assert set(SUBCATEGORIES.values()) == set(CLUSTERS)
    counts = dict.fromkeys(CLUSTERS.values(), 0)
    for subcategory in SUBCATEGORIES.values():
        counts[CLUSTERS[subcategory]] += 1
    assert list(counts.values()) == [18, 13, 12, 14]


def test_reads_all_questions_at_hand(shared):
    root = shared / "data" / "mmlu"
    subjects = mmlu.subjects(root)
    assert set(subjects) == set(SUBCATEGORIES)
    loaded = {subject: list(mmlu.load(root, subject)) for subject in subjects}
    assert sum(map(len, loaded.values())) == 14042
    assert sum(len(records[0].demos) for records in loaded.values()) == 285
    texts = sum(len(list(mmlu.load(root, subject, answers="texts"))) for subject in subjects)
    assert texts == 14042
    head = mmlu.render(loaded["abstract_algebra"][0]).inputs.split("\n")[0]
    assert head.endswith("(with answers) about  abstract algebra.")
