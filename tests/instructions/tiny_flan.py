"""A tiny Flan of our own: patterns, task tables and rows in the layout of the authors' files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def few_shot(prefix: str, inputs: str, targets: str = "{answer}", **changes: Any) -> dict[str, Any]:
    pattern = {
        "inputs": inputs,
        "targets": targets,
        "inputs_prefix": f"{prefix}: ",
        "targets_prefix": "A: ",
        "x_y_delimiter": "\n",
        "example_separator": "\n\n",
        "final_suffix": "",
        "input_pattern": "{{inputs}}{final_suffix}",
        "in_template_mix": True,
    }
    return {**pattern, **changes}


_COT = "{chain_of_thought} So the answer is {answer}."
_DEFINED = "{{Definition}}\n\n{{inputs}}{final_suffix}"
ZERO_SHOT = {
    "rte": [
        ["{premise}\nFollows? {hypothesis}\n\n{options_}", "{answer}"],
        ["Invent a premise.", "{premise}"],
    ],
    "cot_gsm8k": [["{question}\nThink.", _COT]],
    "cot_input_inversion_gsm8k": [["{answer}, since {chain_of_thought}\nQ?", "{question}"]],
    "qrecc": [["{dialog_}", "{answer}"]],
    "t0_question_answer": [["{question}", "{answer}"]],
    "natinst_v2": [["{Definition}\n\n{input}", "{output}"]],
}
BRANCHED = {
    "rte": [["{premise} Hence {hypothesis}?", "{answer}"], ["Invent a premise.", "{premise}"]]
}
FEW_SHOT = {
    "rte": [
        few_shot("P", "{premise} {hypothesis} {options_}", in_template_mix=False),
        few_shot("Q", "{premise} {hypothesis}\n{options_}", example_separator="\n--\n"),
    ],
    "cot_gsm8k": [few_shot("Q", "{question}", _COT), few_shot("R", "{question}", _COT)],
    "cot_input_inversion_gsm8k": [few_shot("Q", "{answer}", "{question}")] * 2,
    "qrecc": [few_shot("D", "{dialog_}")] * 2,
    "t0_question_answer": [few_shot("Q", "{question}")] * 2,
    "natinst_v2": [few_shot("I", "{input}", "{output}", input_pattern=_DEFINED)],
}
INLINE = {
    "natinst_v2": [
        ["{Definition}\n{ex_input}: {ex_output} ({ex_explanation})\n{input}", "{output}"]
    ]
}
FORMATS = {
    "OPT_START_STRING_CANDIDATES": ["Pick:"],
    "OPT_ITEM_NAME_CANDIDATES": [{"items": [f"\n({letter}) " for letter in LETTERS]}],
    "OPT_ITEM_END_STR_CANDIDATES": [{"repeat": [""]}],
    "DIALOG_START_STRING_CANDIDATES": ["Talk:"],
    "DIALOG_ITEM_NAME_CANDIDATES": [{"repeat": ["\nA: ", "\nB: "]}],
    "DIALOG_ITEM_END_STR_CANDIDATES": [{"repeat": [""]}],
}
T0 = "t0_task_adaptation:toy_prompt"
CASES = {"rte": 40_000, "cot_gsm8k": 70, "cot_input_inversion_gsm8k": 70, "qrecc": 300_000}
CASES |= {"qrecc_input_inversion": 300_000, T0: 100, "tfds_natural_instructions": 5_000_000}
T0_TASKS = {
    "toy_prompt": {"task_type": "t0_question_answer", "in_flan": False, "splits": {"train": 100}},
    "old_prompt": {"task_type": "t0_question_answer", "in_flan": True, "splits": {"train": 100}},
}
CLUSTERS = {"entailment": ["rte", "anli_r1"], "math": ["sums"], "paraphrase": ["rewrite"]}
SPELL = {
    "Definition": ["Spell the number."],
    "Categories": ["Spelling"],
    "Positive Examples": [
        {"input": "20", "output": "twenty", "explanation": "two tens"},
        {"input": "30", "output": "thirty", "explanation": "three tens"},
    ],
    "Negative Examples": [],
    "Instances": [{"id": f"i{n}", "input": str(n), "output": [f"n{n}"]} for n in range(6)],
}


def write_tables(folder: Path) -> Path:
    """The files of both collections without rows."""
    cases = {
        task: dict.fromkeys(("zero_shot", "x_shot", "five_shot"), n) for task, n in CASES.items()
    }
    for name, data in {
        "v1_flan2021_patterns": {
            "rte": ZERO_SHOT["rte"],
            "sums": [["{sum} = ?", "{answer}"]],
            "rewrite": [["Rewrite {text}", "{answer}"]],
        },
        "v1_task_clusters": CLUSTERS,
        "v2_zero_shot_patterns": ZERO_SHOT,
        "v2_flan2021_branched_patterns": BRANCHED,
        "v2_few_shot_patterns": FEW_SHOT,
        "v2_inline_fs_patterns": INLINE,
        "v2_option_dialog_formats": FORMATS,
        "v2_num_cases": cases,
        "v2_t0_tasks": T0_TASKS,
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def write_rows(folder: Path) -> Path:
    """Rows of some tasks."""
    rte = [
        {
            "premise": f"It rains {i} days.",
            "hypothesis": f"It is wet on day {i}.",
            "options": ["yes", "no"],
            "answer": "yes" if i % 3 else "no",
        }
        for i in range(212)
    ]
    _jsonl(folder / "flan2021/rte/train.jsonl", rte)
    _jsonl(folder / "flan2021/rte/validation.jsonl", rte[:4])
    sums = [{"sum": f"{i} + {i}", "answer": str(2 * i)} for i in range(9)]
    _jsonl(folder / "flan2021/sums/train.jsonl", sums)
    p3 = [
        {"inputs_pretokenized": f"Say\n{i}", "targets_pretokenized": f"it is {i}"} for i in range(8)
    ]
    _jsonl(folder / f"t0/{T0.partition(':')[2]}/train.jsonl", p3)
    (folder / "cot").mkdir()
    lines = [f"{i} plus one?\\nHow much?\t{i + 1}\tone more than {i}.\n" for i in range(9)]
    (folder / "cot/gsm8k_train.tsv").write_text("".join(lines))
    tasks = folder / "natural-instructions/tasks"
    tasks.mkdir(parents=True)
    for name in ("task001_spell", "task685_mmlu"):
        (tasks / f"{name}.json").write_text(json.dumps(SPELL))
    return folder


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
