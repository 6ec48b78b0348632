"""`ul2tune evaluate` and `infer` as one calls them, on a tiny model."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from tests.checkpoints import saving
from tests.decoding import tiny
from tests.evaluation import prepared
from ul2tune.cli import main as cli
from ul2tune.cli import prepared as prepared_cli
from ul2tune.data.embedding_rows import ROWS

FIELDS = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_encoder_layers", "dtype")


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    """Data, a checkpoint, and the flags that name them."""
    folder = tmp_path_factory.mktemp("all")
    prepared.write(folder / "data")
    saving.save(folder / "model", 3, {"params": tiny.params(seed=1)})
    values = {f.name: getattr(tiny.MODEL, f.name) for f in dataclasses.fields(tiny.MODEL)}
    lines = [f"  {name} = {values[name]!r}" for name in (*FIELDS, "num_decoder_layers")]
    (folder / "model.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom ul2tune.models import t5\n"
        "MODEL = @t5.T5Config()\nt5.T5Config:\n  dropout_rate = %DROPOUT_RATE\n"
        + "\n".join(lines)
        + "\n"
    )
    macros = {
        "MIXTURE_OR_TASK_NAME": "instructions",
        "DATA_DIR": str(folder / "data"),
        "CHECKPOINT_PATH": str(folder / "model"),
        "MAX_DECODE_LENGTH": 4,
    }
    bindings = [f"--gin.{name}={value!r}" for name, value in macros.items()]
    return [f"--gin_file={folder / 'model.gin'}", *bindings]


def test_evaluate_prints_its_numbers(flags, tmp_path, capfd):
    output = tmp_path / "out"
    own = [
        "--gin_file=runs/evaluate.gin",
        "--gin.TASK_MODULES=()",
        f"--gin.EVAL_OUTPUT_DIR={str(output)!r}",
        "--gin.EVAL_INPUTS_LENGTH=32",
    ]
    assert cli.main(["evaluate", *flags, *own]) == 0
    out, err = capfd.readouterr()
    table = json.loads((output / "metrics.json").read_text())
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert rows["first"][1] == "7"
    assert rows["all examples"][2] == "14"
    shown = {name: f"{value:.1f}" for name, value in table["overall"].items()}
    del shown["num_examples"]
    of_tasks = dict.fromkeys(table["mean_over_tasks"].keys() - shown.keys(), "–")
    assert rows["all examples"][3:] == [*shown.values(), *of_tasks.values()]
    assert f"Of 14 prompts {table['num_truncated']} were cut" in out
    assert table["num_truncated"] > 0
    assert f"metrics.json to {output}." in out
    assert "score: 14/14 answers" in err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("CHECKPOINT_PATH='nowhere'", "No checkpoint at"),
        ("EVAL_OUTPUT_DIR='file/out'", "EVAL_OUTPUT_DIR: file/out cannot be written to"),
        ("EVAL_METRICS=('rogue',)", "Unknown metric 'rogue'"),
    ],
)
def test_evaluate_looks_before_it_prepares(flags, tmp_path, monkeypatch, capsys, setting, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")

    def prepare(values):
        raise AssertionError("prepares")

    monkeypatch.setattr(prepared_cli, "_prepare", prepare)
    own = ["--gin_file=runs/evaluate.gin", "--gin.TASK_MODULES=()", "--gin.DATA_DIR='not_yet'"]
    own += ["--gin.EVAL_OUTPUT_DIR='out'", f"--gin.{setting}"]
    assert cli.main(["evaluate", *flags, *own]) == 1
    assert message in capsys.readouterr().err


def test_an_evaluation_whose_data_cannot_be_prepared_leaves_nothing(
    flags, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepared_cli, "_prepare", lambda values: 3)
    own = ["--gin_file=runs/evaluate.gin", "--gin.TASK_MODULES=()", "--gin.DATA_DIR='not_yet'"]
    assert cli.main(["evaluate", *flags, *own, "--gin.EVAL_OUTPUT_DIR='out'"]) == 1
    assert "Preparing it failed with exit status 3" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_prepares_for_an_evaluation_knows_the_models_rows(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    monkeypatch.setattr(prepared_cli, "_prepare", lambda values: told.append(os.environ[ROWS]) or 3)
    own = ["--gin_file=runs/evaluate.gin", "--gin.TASK_MODULES=()", "--gin.DATA_DIR='not_yet'"]
    assert cli.main(["evaluate", *flags, *own, "--gin.EVAL_OUTPUT_DIR='out'"]) == 1
    assert told == [str(tiny.MODEL.vocab_size)]


def test_infer_ends_prompts_as_the_data_does(flags, tmp_path):
    source = tmp_path / "prompts"
    source.write_text('{"prompt": "a", "id": "x"}\n')
    for name, more in (("derived", []), ("told", ["--gin.INFER_APPEND_EOS=False"])):
        output = tmp_path / f"{name}.jsonl"
        paths = [f"--gin.INFER_INPUT={str(source)!r}", f"--gin.INFER_OUTPUT={str(output)!r}"]
        assert cli.main(["infer", *flags, "--gin_file=runs/infer.gin", *paths, *more]) == 0
        assert json.loads(output.read_text())["id"] == "x"
        settings = json.loads(Path(f"{output}.settings.json").read_text())
        assert settings["append_eos"] == (name == "derived")


@pytest.mark.parametrize("command", ["evaluate", "infer"])
def test_beams(flags, tmp_path, capfd, command):
    """Set as the neighbours are, recorded, and refused where something would have no effect."""
    source, output = tmp_path / "prompts.jsonl", tmp_path / "out"
    source.write_text("".join(f'{{"prompt": "{word}"}}\n' for word in ("a", "bcd", "xyz")))
    own = {
        "evaluate": [f"EVAL_OUTPUT_DIR={output}", "TASK_MODULES=()", "EVAL_INPUTS_LENGTH=32"],
        "infer": [f"INFER_OUTPUT={output}", f"INFER_INPUT={source}"],
    }[command]
    arguments = [command, *flags, f"--gin_file=runs/{command}.gin", *(f"--gin.{x}" for x in own)]
    beams = "--gin.SamplingConfig.num_beams=4"
    assert cli.main([*arguments, beams, "--gin.TEMPERATURE=0.7"]) == 1
    assert "do nothing with num_beams = 4: beam search draws nothing" in capfd.readouterr().err
    assert cli.main([*arguments, "--gin.SamplingConfig.beam_alpha=1.0"]) == 1
    assert "beam_alpha = 1.0 does nothing with num_beams = 1" in capfd.readouterr().err
    assert not output.exists()
    assert cli.main([*arguments, beams, "--gin.SamplingConfig.beam_alpha=1.0"]) == 0
    recorded = output / "metrics.json" if command == "evaluate" else Path(f"{output}.settings.json")
    sampling = json.loads(recorded.read_text())["sampling"]
    assert (sampling["num_beams"], sampling["beam_alpha"]) == (4, 1.0)
    answers = output / "predictions.jsonl" if command == "evaluate" else output
    searched = [json.loads(line)["prediction"] for line in answers.read_text().splitlines()]
    if command == "infer":
        output.unlink()
    assert cli.main(arguments) == 0
    assert searched != [json.loads(line)["prediction"] for line in answers.read_text().splitlines()]
