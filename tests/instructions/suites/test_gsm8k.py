"""GSM8K: solutions and chains of thought."""

from __future__ import annotations

import json

import pytest

from ul2tune.instructions.suites import gsm8k
from ul2tune.instructions.suites.gsm8k import Gsm8k

ROWS = [
    {
        "question": f"Ann has {n} eggs and buys 2. How many?",
        "answer": f"She has {n}+2=<<{n}+2={n + 2}>>{n + 2}\nThat is all.\n#### 1,{n + 2:03}",
    }
    for n in range(12)
]


@pytest.fixture
def folder(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "train.jsonl").write_text(text + "\n")
    (tmp_path / "test.jsonl").write_text(text.partition("\n")[0])
    return tmp_path


def test_records(folder):
    records = list(Gsm8k(folder=str(folder)).read("train"))
    assert len(records) == 12
    assert (records[3].id, records[3].targets) == ("train-4", ("1005",))
    assert records[3].explanation == "She has 3+2=<<3+2=5>>5\nThat is all."
    assert [r.id for r in Gsm8k(folder=str(folder)).read("validation")] == ["test-1"]


def test_solutions_keep_or_lose_annotations(folder):
    record = next(gsm8k.load(folder / "train.jsonl"))
    rendered = gsm8k.render(record)
    assert rendered.inputs == ROWS[0]["question"]
    assert rendered.targets == "She has 0+2=<<0+2=2>>2\nThat is all.\n#### 1,002"
    plain = gsm8k.render(record, annotated=False)
    assert plain.targets == "She has 0+2=2\nThat is all.\n#### 1,002"


@pytest.mark.parametrize("number", ["7", "1,002", "$5", " 3 ", "12 eggs", "-4.50"])
def test_the_target_is_the_answer_to_the_byte(number, tmp_path):
    row = {"question": "q", "answer": f"1+1=<<1+1=2>>2\n\n#### {number}"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    (record,) = gsm8k.load(tmp_path / "train.jsonl")
    assert gsm8k.render(record).targets == row["answer"]


def test_chains_of_thought_share_exemplars_and_never_show_the_query(folder):
    pool = gsm8k.demo_pool(folder)
    records = list(gsm8k.load(folder / "train.jsonl"))
    rendered = [gsm8k.render_cot(record, 0, pool=pool, shots=3) for record in records]
    for record, one in zip(records, rendered, strict=True):
        assert len(one.demo_ids) == 3
        assert record.id not in one.demo_ids
        assert one.inputs.count(record.input) == 1
        assert one.inputs.endswith(f"\n\nQ: {record.input}\nA:")
    assert len({one.demo_ids for one in rendered}) <= 4  # the shared three, less the query
    other = gsm8k.render_cot(records[0], 1, pool=pool, shots=3)
    assert other.demo_ids != rendered[0].demo_ids
    none = gsm8k.render_cot(records[0], 0)
    assert none.inputs == f"Q: {records[0].input}\nA:"
    assert none.targets == " She has 0+2=2. That is all. The answer is 1002."


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"train\.jsonl:2: not valid JSON"),
        ("[]", "expected a JSON object, got list"),
        ('{"question": "q"}', "'answer' must be a string"),
        ('{"question": "q", "answer": "12"}', "does not end in a line '#### <number>'"),
        ('{"question": "q", "answer": "a\\n#### many"}', "does not end in a line"),
    ],
)
def test_a_malformed_line_is_named_with_the_reason(folder, line, message):
    path = folder / "train.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line)
    with pytest.raises(ValueError, match=message) as error:
        list(gsm8k.load(path))
    assert f"{path}:2" in str(error.value)


def test_the_fingerprint_sees_both_files(folder):
    before = Gsm8k(folder=str(folder)).fingerprint()
    assert Gsm8k(folder=str(folder), with_train=False).fingerprint() != before
    (folder / "test.jsonl").write_text(json.dumps(ROWS[1]))
    assert Gsm8k(folder=str(folder)).fingerprint() != before


def test_reads_the_published_files(shared):
    corpus = Gsm8k(folder=str(shared / "data" / "gsm8k"))
    records = {split: list(corpus.read(split)) for split in corpus.splits}
    assert {split: len(found) for split, found in records.items()} == {
        "train": 7473, "validation": 1319
    }  # fmt: skip
    for split, name in (("train", "train.jsonl"), ("validation", "test.jsonl")):
        rows = (shared / "data" / "gsm8k" / name).read_text(encoding="utf-8").splitlines()
        for record, row in zip(records[split], rows, strict=True):
            answer = json.loads(row)["answer"]
            assert record.targets == (answer.rpartition(" ")[2].replace(",", ""),)
            assert gsm8k.render(record).targets == answer
