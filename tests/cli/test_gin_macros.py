"""Defaults of macros: they give way to values, wherever either stands."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from tests.cli import golden_configs
from ul2tune.cli import gin_macros
from ul2tune.cli.gin_source import Program, statements

RUNS = golden_configs.GIN / "runs"


def macros(*files: str, flags=(), command: str = "train") -> dict:
    """Literal macros in force; what else the command requires is set here."""
    values = {"MODEL_DIR": "x", "INITIAL_CHECKPOINT_PATH": "x", "TRAIN_STEPS_RELATIVE": "1"}
    if command == "evaluate":
        values = {"CHECKPOINT_PATH": "x", "EVAL_OUTPUT_DIR": "y"}
    arguments = [f"--gin_file={file}" for file in files]
    flags = [f"--gin.{name}={value}" for name, value in {**values, **dict(flags)}.items()]
    return dict(golden_configs.resolve([command, *arguments, *flags]).macros)


@pytest.mark.parametrize(
    "files", list(permutations(["data/bbh.gin", "runs/evaluate.gin", "models/t5_1_1_tiny.gin"]))
)
def test_an_evaluation_keeps_its_data_files_lengths_in_any_order(files):
    found = macros(*files, command="evaluate")
    assert (found["MAX_DECODE_LENGTH"], found["EVAL_INPUTS_LENGTH"]) == (512, 2048)
    assert found["EVAL_METRICS"] == ()
    assert found["EVAL_BATCH_SIZE"] == 32


@pytest.mark.parametrize("run_first", [True, False])
def test_a_run_file_does_not_reset_layout_dropout_or_batch(run_first):
    Path("mine.gin").write_text("BATCH_SIZE = 6\nDROPOUT_RATE = 0.25\n")
    files = ["mine.gin", "models/opt_125m.gin", "data/opt_iml.gin", "optim/adamw.gin"]
    files = ["runs/finetune.gin", *files] if run_first else [*files, "runs/finetune.gin"]
    files.remove("models/opt_125m.gin")
    found = macros("models/opt_125m.gin", *files)
    assert found["LAYOUT"] == "causal_lm"
    assert (found["BATCH_SIZE"], found["DROPOUT_RATE"]) == (6, 0.25)
    assert (found["PACKING"], found["EVAL_PERIOD"]) == ("greedy", 500)  # finetune's, not train's


@pytest.mark.parametrize(("run", "dropout"), [("continue", 0.0), ("finetune", 0.1)])
@pytest.mark.parametrize("run_first", [True, False])
def test_dropout_is_the_runs(run, dropout, run_first):
    files = [f"runs/{run}.gin", "models/t5_1_1_tiny.gin"]
    files = files if run_first else files[::-1]
    found = macros(*files, "data/ul2_stdlib.gin", "optim/adafactor_finetune.gin")
    assert found["DROPOUT_RATE"] == dropout


def test_a_mesh_file_keeps_a_size_that_was_set_before():
    Path("mine.gin").write_text("TENSOR_PARALLELISM = 8\n")
    found = macros("recipes/ul2r_base.gin", "mine.gin", "mesh/fsdp_tensor.gin")
    assert found["TENSOR_PARALLELISM"] == 8


def test_what_is_saved_holds_plain_values():
    text = golden_configs.resolve(
        ["train", "--gin_file=recipes/ul2_base.gin", "--gin.MODEL_DIR=x"]
    ).text
    assert "\nPACKING = 'balanced'\n" in text
    assert "default/" not in text


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def in_force(*files: str, flags=()) -> dict:
    program = Program([Path(), golden_configs.GIN])
    for file in files:
        program.read_file(file)
    for name, value in flags:
        program.read_flag(name, value)
    return {b.parameter: b.value for b in gin_macros.in_order_of_force(program)}


def test_two_different_defaults_are_refused_unless_a_value_is_set():
    Path("a.gin").write_text("default/X = 1\ndefault/Y = 2\n")
    Path("b.gin").write_text("\ndefault/X = 3\ndefault/Y = 2\n")
    with pytest.raises(ValueError, match=r"X has two defaults, 1 \(a.gin:1\) and 3 \(b.gin:2\)"):
        in_force("a.gin", "b.gin")
    assert in_force("a.gin", "b.gin", flags=[("X", "4")]) == {"X": 4, "Y": 2}


@pytest.mark.parametrize("outer", ["default/X = 2\n{}", "{}default/X = 2\n"])
def test_the_default_of_the_file_that_includes_wins(outer):
    Path("inner.gin").write_text("default/X = 1\n")
    Path("middle.gin").write_text("include 'inner.gin'\n")
    Path("outer.gin").write_text(outer.format("include 'middle.gin'\n"))
    for files in (["outer.gin"], ["outer.gin", "inner.gin"], ["inner.gin", "outer.gin"]):
        assert in_force(*files) == {"X": 2}


@pytest.mark.parametrize("text", ["{0}{1}{2}", "{2}{1}{0}", "{1}{2}{0}", "{1}{0}{2}"])
def test_a_value_beats_a_default_and_a_default_beats_required(text):
    required, default, value = "X = %gin.REQUIRED\n", "default/X = 1\n", "X = 2\n"
    Path("a.gin").write_text(text.format(required, default, value))
    assert in_force("a.gin") == {"X": 2}
    Path("a.gin").write_text(text.format(required, default, ""))
    assert in_force("a.gin") == {"X": 1}


@pytest.mark.parametrize("file", sorted(RUNS.glob("*.gin")), ids=lambda path: path.stem)
def test_run_files_set_defaults_only(file):
    """A plain value in a run file would reset what a file before it sets."""
    for statement in statements(file):
        if not getattr(statement, "arg_name", "not a macro"):
            default = statement.scope == "default"
            assert default or repr(statement.value) == "%gin.REQUIRED", statement.selector
