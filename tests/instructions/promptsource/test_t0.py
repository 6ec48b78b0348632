"""T0's data sets, prompts and rates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ul2tune.instructions.promptsource import t0

EXAMPLES = Path(__file__).parent
HEADER = "HF_name,subset,task_by_convention,do_train,do_eval,train_size\n"
TABLE = HEADER + "harbour,ferries,timing,BASE,,600000\nweather,,sky,,BASE,\ngone,x,sky,SGLUE,,5\n"


def table(folder: Path, text: str = TABLE) -> Path:
    path = folder / "datasets.csv"
    path.write_text(text)
    return path


def test_small_catalogue(tmp_path: Path):
    catalogue = t0.load(datasets_csv=table(tmp_path), templates=EXAMPLES)
    assert catalogue.missing == (("gone", "x"),)
    assert list(catalogue.tasks) == [
        "harbour_ferries_Which_pier",
        "harbour_ferries_invent",
        "harbour_ferries_on_time_",
        "weather_dry_or_wet",
    ]
    assert t0.rates(catalogue, "t0_train") == dict.fromkeys(list(catalogue.tasks)[:3], 166_666)
    assert t0.rates(catalogue, "t0_train_one_og_prompt") == {"harbour_ferries_Which_pier": 166_666}
    assert list(t0.rates(catalogue, "t0_train_all_og_prompts")) == [
        "harbour_ferries_Which_pier",
        "harbour_ferries_on_time_",
    ]
    assert t0.rates(catalogue, "t0_eval_score_eval") == {"weather_dry_or_wet": 1}
    assert t0.totals(catalogue, "BASE").rate == 3 * 166_666
    with pytest.raises(ValueError, match="Unknown mixture 't5'"):
        t0.rates(catalogue, "t5")


def test_cap_rules():
    # Of 400,000 examples under ten prompts, and of 600,000.
    assert 10 * t0.cap(400_000, 10) == 4_000_000
    assert 10 * t0.cap(600_000, 10) == 500_000
    assert 10 * t0.cap(400_000, 10, "paper") == 500_000
    assert t0.cap(3_000, 10, "paper") == t0.cap(3_000, 10) == 3_000
    assert t0.cap(500_000, 7) == 500_000
    assert t0.cap(None, 7) == 0
    with pytest.raises(ValueError, match="Unknown cap rule 'none'"):
        t0.cap(1, 1, "none")  # type: ignore[arg-type]


def test_task_names():
    assert (
        t0.task_name("super_glue", "wsc.fixed", "p is/are r") == "super_glue_wsc.fixed_p_is_are_r"
    )
    assert t0.task_name("a", None, "what?! now") == "a_what_now"
    assert t0.task_name("anli", None, "can we infer", "r1") == "anli_can_we_infer_r1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n", r":1: expected the columns"),
        (HEADER + "a,,b,MAYBE,,1\n", r":2: do_train must be empty or one of"),
        (HEADER + "a,,b,BASE,,many\n", r":2: train_size must be a number or empty, got 'many'"),
        (HEADER + "a,,b,BASE,,1\na,,b,BASE,,1\n", r":3: a/None is a repeat"),
        (HEADER + "a,,b\n", r":2: expected 6 columns"),
        (HEADER + ",,b,BASE,,1\n", r":2: HF_name is empty"),
    ],
)
def test_a_bad_table_gives_file_line_and_reason(text: str, reason: str, tmp_path: Path):
    with pytest.raises(ValueError, match=reason):
        t0.read_datasets(table(tmp_path, text))


def test_totals_of_the_published_table(shared: Path):
    folder = shared / "data" / "promptsource"
    catalogue = t0.load(datasets_csv=folder / "t0_datasets.csv", templates=folder)
    found = [t0.totals(catalogue, group) for group in t0.TRAIN_GROUPS]
    assert [(t.num_datasets, t.num_prompts, t.rate) for t in found] == [
        (38, 313, 17_277_798),
        (10, 79, 3_394_873),
        (6, 72, 2_445_920),
    ]
    by_dataset: dict[str, int] = {}
    for name, rate in t0.rates(catalogue, "t0_train", exclude=False).items():
        dataset = catalogue.tasks[name].row.dataset
        by_dataset[dataset] = by_dataset.get(dataset, 0) + rate
    assert by_dataset["cnn_dailymail"] == 2_584_017
    assert by_dataset["xsum"] == 2_040_450
    assert len(t0.rates(catalogue, "t0++_train", exclude=False)) == 313 + 79 + 72


def test_evaluation_prompts_are_the_published_list(shared: Path):
    folder = shared / "data" / "promptsource"
    catalogue = t0.load(datasets_csv=folder / "t0_datasets.csv", templates=folder)
    listed = json.loads((folder / "t0_eval_template_list.json").read_text())
    assert sum(len(entry["templates"]) for entry in listed) == 86
    names = {
        t0.task_name(entry["dataset"], entry["subset"], template, round)
        for entry in listed
        for template in entry["templates"]
        for round in (("r1", "r2", "r3") if entry["dataset"] == "anli" else ("",))
    }
    assert names == set(t0.rates(catalogue, "t0_eval_score_eval"))
