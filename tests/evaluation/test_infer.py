"""`infer`: prompts in, lines out; a kill at any byte loses and repeats nothing."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from tests import compiling, interrupting
from tests.checkpoints import saving
from tests.decoding import tiny
from tests.evaluation import prepared
from tests.models import decoder_examples
from tests.training import processes
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation.infer import InferConfig, infer
from ul2tune.evaluation.predictor import Predictor
from ul2tune.sharding import MeshConfig
from ul2tune.status_line import Progress

CONFIG = InferConfig(
    sampling=SamplingConfig(max_decode_length=5, temperature=1.0), inputs_length=64, batch_size=8
)
PROMPTS = [{"prompt": f"say {'word ' * (i % 7)}{i}", "id": f"p{i}"} for i in range(21)]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    saving.save(folder, 1, {"params": tiny.params()})
    return str(folder)


@pytest.fixture
def ask(model_dir, tmp_path):

    def run(lines, config=CONFIG, name="prompts.jsonl", model_dir=model_dir):
        source = tmp_path / name
        source.write_text("".join(lines), encoding="utf-8")
        output = tmp_path / "out.jsonl"
        arguments = (model_dir, MeshConfig(), str(source), str(output), config)
        count = infer(tiny.MODEL, prepared.VOCABULARY, *arguments)
        return count, output

    return run


LINES = [json.dumps(prompt) + "\n" for prompt in PROMPTS]


def test_one_line_per_prompt_in_order_and_resumable_at_any_byte(ask, capsys):
    count, output = ask(LINES)
    assert count == 21
    whole = output.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [(row["id"], row["prompt"]) for row in rows] == [(p["id"], p["prompt"]) for p in PROMPTS]
    assert len({row["prediction"] for row in rows}) > 5
    assert "infer: 21/21 prompts" in capsys.readouterr().err
    assert ask(LINES)[0] == 0
    assert output.read_bytes() == whole
    # What a kill leaves: whole lines and perhaps a torn line; the batch size may change.
    for cut, batch_size in ((0, 8), (whole.index(b"\n") + 1, 16), (len(whole) // 2, 8)):
        output.write_bytes(whole[:cut])
        ask(LINES, InferConfig(**{**vars(CONFIG), "batch_size": batch_size}))
        assert output.read_bytes() == whole


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_callback_swallows_comes_before_the_next_batch(
    ask, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", lambda self, count: interrupting.collect())
        with pytest.raises(KeyboardInterrupt):
            ask(LINES)
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 8
    assert ask(LINES)[0] == 13


def test_prompts_of_several_lengths_fill_their_batches(ask, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, inputs_length=128)
    lengths = [100 if i % 5 == 0 else 20 for i in range(128)]
    lines = [
        json.dumps({"prompt": f"{i} ".ljust(n, "w"), "id": i}) + "\n" for i, n in enumerate(lengths)
    ]
    written = []  # lines there are before each batch
    generate = Predictor.generate

    def spy(self, inputs, *args, **kwargs):
        written.append(len(output.read_bytes().splitlines()))
        return generate(self, inputs, *args, **kwargs)

    output = tmp_path / "out.jsonl"
    monkeypatch.setattr(Predictor, "generate", spy)
    assert ask(lines, config)[0] == 128
    assert len(written) == math.ceil(lengths.count(100) / 8) + math.ceil(lengths.count(20) / 8)
    # Eight long ones take 40 prompts; what comes before the first of them is there from then on.
    assert all(there >= 8 * number - 40 for number, there in enumerate(written))
    whole = output.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["id"] for row in rows] == [str(i) for i in range(128)]
    output.write_bytes(b"".join(whole.splitlines(keepends=True)[:37]))
    assert ask(lines, config)[0] == 128 - 37
    assert output.read_bytes() == whole


def test_other_settings_or_prompts_are_not_mixed_in(ask, tmp_path):
    _, output = ask(LINES[:3])
    other = InferConfig(**{**vars(CONFIG), "sampling": SamplingConfig(max_decode_length=4)})
    with pytest.raises(ValueError, match=r"with sampling\.max_decode_length = 5, now it is 4; sam"):
        ask(LINES[:3], other)
    with pytest.raises(ValueError, match=r"out\.jsonl:2 answers another prompt"):
        ask([LINES[0], LINES[5]])
    with pytest.raises(ValueError, match=r"out\.jsonl:3 answers another prompt"):
        ask(LINES[:2])
    # The id decides the draws.
    renamed = json.dumps({**PROMPTS[1], "id": "another"}) + "\n"
    with pytest.raises(ValueError, match=r"out\.jsonl:2 answers another prompt"):
        ask([LINES[0], renamed, LINES[2]])
    assert len(output.read_bytes().splitlines()) == 3


def test_an_output_from_before_there_were_beams_goes_on(ask, tmp_path):
    """Its settings lack what came later; with one beam they are the same."""
    _, output = ask(LINES[:2])
    whole, beside = output.read_bytes(), tmp_path / "out.jsonl.settings.json"
    settings = json.loads(beside.read_text())
    assert settings["sampling"] | {"num_beams": 1, "beam_alpha": 0.6} == settings["sampling"]
    for name in ("num_beams", "beam_alpha"):
        del settings["sampling"][name]
    beside.write_text(json.dumps(settings))
    output.write_bytes(whole[: whole.index(b"\n") + 1])
    assert ask(LINES[:2])[0] == 1
    assert output.read_bytes() == whole
    beams = dataclasses.replace(
        CONFIG, sampling=SamplingConfig(max_decode_length=5, num_beams=4, beam_alpha=1.0)
    )
    changed = r"sampling\.beam_alpha = 0\.6, now it is 1\.0; sampling\.num_beams = 1, now it is 4; "
    with pytest.raises(
        ValueError, match=f"was made with {changed}sampling.temperature = 1.*Delete"
    ):
        ask(LINES[:2], beams)
    output.unlink()
    assert ask(LINES[:2], beams)[0] == 2
    recorded = json.loads(beside.read_text())["sampling"]
    assert (recorded["num_beams"], recorded["beam_alpha"]) == (4, 1.0)
    with pytest.raises(ValueError, match=r"was made with sampling"):
        ask(LINES[:2], dataclasses.replace(beams, sampling=SamplingConfig(max_decode_length=5)))


def test_how_a_model_is_computed_is_no_other_setting(model_dir, tmp_path):
    source, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    source.write_text(LINES[0])
    where = (model_dir, MeshConfig(), str(source), str(output), CONFIG)
    assert infer(tiny.MODEL, prepared.VOCABULARY, *where) == 1
    same = dataclasses.replace(tiny.MODEL, remat="dots", scan_layers=False, dropout_rate=0.1)
    assert infer(same, prepared.VOCABULARY, *where) == 0
    other = dataclasses.replace(tiny.MODEL, activation="relu")
    with pytest.raises(ValueError, match=r"was made with model.activation = 'gelu_gated', now it"):
        infer(other, prepared.VOCABULARY, *where)


@pytest.mark.parametrize("content", ["", "notes of the user's\n"])
def test_a_file_that_infer_did_not_write_is_left_alone(ask, tmp_path, content):
    output = tmp_path / "out.jsonl"
    output.write_text(content)
    with pytest.raises(ValueError, match="exists and was not written by infer") as caught:
        ask(LINES[:3])
    assert "Delete" not in str(caught.value)
    assert output.read_text() == content
    assert not (tmp_path / "out.jsonl.settings.json").exists()


@pytest.mark.parametrize("name", ["out.jsonl", "sub/../out.jsonl", "out.jsonl.settings.json"])
def test_prompts_are_not_written_over(ask, tmp_path, name):
    (tmp_path / "sub").mkdir()
    with pytest.raises(ValueError, match=r"out\.jsonl' would write over the prompts, INFER_INPUT"):
        ask(LINES[:3], name=name)
    assert (tmp_path / name).read_text() == "".join(LINES[:3])
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "folder"])
def test_an_output_that_is_no_file_is_refused(model_dir, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("prompts.jsonl").write_text(LINES[0])
    arguments = (model_dir, MeshConfig(), "prompts.jsonl", name, CONFIG)
    with pytest.raises(ValueError, match=f"INFER_OUTPUT = '{name}' is no file: infer resumes"):
        infer(tiny.MODEL, prepared.VOCABULARY, *arguments)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "prompts.jsonl"]


def test_an_output_that_cannot_be_made_names_its_setting(model_dir, tmp_path):
    source = tmp_path / "prompts.jsonl"
    source.write_text(LINES[0])
    arguments = (model_dir, MeshConfig(), str(source), str(source / "out.jsonl"), CONFIG)
    with pytest.raises(ValueError, match=r"INFER_OUTPUT: .* \(.*prompts\.jsonl is a file\)"):
        infer(tiny.MODEL, prepared.VOCABULARY, *arguments)


def save(folder: Path, seed: int) -> str:
    saving.save(folder, 1, {"params": tiny.params(seed)})
    return str(folder)


def test_parameters_count_and_not_where_they_are(ask, tmp_path, monkeypatch):
    model_dir = save(tmp_path / "model", 0)
    _, output = ask(LINES[:2], model_dir=model_dir)
    monkeypatch.chdir(tmp_path)
    assert ask(LINES[:3], model_dir="model")[0] == 1  # a relative path
    shutil.move(model_dir, tmp_path / "moved")
    assert ask(LINES[:4], model_dir=str(tmp_path / "moved"))[0] == 1
    # Trained again to the same step at the same place.
    save(tmp_path / "model", 5)
    with pytest.raises(ValueError, match="was made with parameters = "):
        ask(LINES[:5], model_dir=model_dir)
    assert len(output.read_bytes().splitlines()) == 4


@pytest.mark.parametrize("line", ["{", '{"prompt": "\\ud800"}', "[" * 200_000])
def test_a_bad_line_stops_before_any_work(ask, tmp_path, line):
    with pytest.raises(ValueError, match=r"prompts\.jsonl:2: not valid JSON"):
        ask([LINES[0], line + "\n"])
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("source", ["prompts.jsonl", "stdin"])
def test_a_prompt_of_which_an_encoder_reads_nothing(ask, model_dir, tmp_path, monkeypatch, source):
    lines = [LINES[0], '{"prompt": "", "id": "none"}\n']
    assert ask(lines)[0] == 2  # the end of sequence is read
    (tmp_path / "out.jsonl").unlink()
    config = dataclasses.replace(CONFIG, append_eos=False)
    expected = rf"{source}:2: prompt 'none' has no tokens, .* read nothing\. .* INFER_APPEND_EOS"
    if source == "stdin":
        stdin = types.SimpleNamespace(buffer=io.BytesIO("".join(lines).encode()))
        monkeypatch.setattr("sys.stdin", stdin)
        arguments = (model_dir, MeshConfig(), "-", str(tmp_path / "out.jsonl"), config)
        with pytest.raises(ValueError, match=expected):
            infer(tiny.MODEL, prepared.VOCABULARY, *arguments)
        return
    with pytest.raises(ValueError, match=expected):
        ask(lines, config)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_has_not_ended_would_go_on(ask):
    found = {}
    for length in (40, 60):
        sampling = SamplingConfig(max_decode_length=length, temperature=1.0)
        _, output = ask(LINES, dataclasses.replace(CONFIG, sampling=sampling))
        found[length] = [json.loads(line) for line in output.read_bytes().splitlines()]
        output.unlink()
    assert {row["finished"] for row in found[40]} == {True, False}
    for row, longer in zip(found[40], found[60], strict=True):
        assert row["finished"] == (row["prediction"] == longer["prediction"])


def test_a_token_that_ends_answers(model_dir, tmp_path):
    """They are what they were, up to it."""
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(LINES), encoding="utf-8")
    vocabulary = ByteVocabulary(extra_ids=5, modes=())

    def rows(config: InferConfig, name: str) -> list[dict]:
        output = tmp_path / name
        infer(tiny.MODEL, vocabulary, model_dir, MeshConfig(), str(source), str(output), config)
        return [json.loads(line) for line in output.read_text().splitlines()]

    sampling = SamplingConfig(max_decode_length=12, temperature=1.0)
    config = dataclasses.replace(CONFIG, sampling=sampling, allow_other_vocabulary=True)
    plain = rows(config, "plain.jsonl")
    (stop, *_) = re.findall("<extra_id_.>", "".join(row["prediction"] for row in plain))
    stopped = rows(dataclasses.replace(config, stop=stop), "stopped.jsonl")
    for whole, row in zip(plain, stopped, strict=True):
        assert row["prediction"] == whole["prediction"].split(stop)[0].strip()
        assert row["finished"] == (whole["finished"] or stop in whole["prediction"])


def test_a_size_is_positive():
    with pytest.raises(ValueError, match="batch_size must be positive"):
        InferConfig(batch_size=0)


@pytest.mark.parametrize(("room", "refused"), [(69, False), (68, True)])
def test_a_prompt_too_long_for_the_model_with_its_answer(model_dir, tmp_path, room, refused):
    """Prompts are padded to 64 or 128 tokens, answers have 5."""
    model = decoder_examples.gemma(vocab_size=264, max_length=room)
    source, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    source.write_text('"short"\n"' + "long " * 20 + '"\n')
    config = dataclasses.replace(CONFIG, layout="causal_lm", inputs_length=128)
    arguments = (model, prepared.VOCABULARY, model_dir, MeshConfig(), str(source), str(output))
    line = 1 if refused else 2
    expected = rf"prompts.jsonl:{line}: prompt '{line}' is padded to .* INFER_INPUTS_LENGTH"
    with pytest.raises(ValueError, match=expected):
        infer(*arguments, config)
    assert not output.exists()


@pytest.mark.parametrize("name", ["prompts.jsonl", "p.txt"])
def test_no_prompts_are_an_error(ask, tmp_path, name):
    with pytest.raises(ValueError, match=f"INFER_INPUT: .*{name} has no prompts"):
        ask(["\n"], name=name)
    assert not (tmp_path / "out.jsonl").exists()


def test_an_empty_standard_input_is_an_error(model_dir, tmp_path, monkeypatch):
    """What a pipe whose first part failed leaves."""
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(b"")))
    arguments = (model_dir, MeshConfig(), "-", str(tmp_path / "out.jsonl"), CONFIG)
    with pytest.raises(ValueError, match="INFER_INPUT: stdin has no prompts"):
        infer(tiny.MODEL, prepared.VOCABULARY, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_long_prompts_are_marked(ask):
    config = InferConfig(**{**vars(CONFIG), "inputs_length": 8})
    _, output = ask(["12345678\n", "1234567\n"], config, name="p.txt")
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["truncated"] for row in rows] == [True, False]


CHILD = """
import sys
import jax
from tests.decoding import tiny
from tests.evaluation import prepared, test_infer
from ul2tune.evaluation.infer import infer
from ul2tune.sharding import MeshConfig

model_dir, source, output = sys.argv[1:]
infer(tiny.MODEL, prepared.VOCABULARY, model_dir, MeshConfig(), source, output, test_infer.CONFIG)
"""


@pytest.mark.slow
def test_a_real_kill_loses_and_repeats_nothing(model_dir, tmp_path):
    source, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": f"prompt {i}", "id": i} for i in range(4000)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-c", CHILD, model_dir, str(source), str(output)]
    environment = {**os.environ, **compiling.environment(), "PYTHONPATH": str(processes.ROOT)}
    killed = 0
    while True:
        child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        before = output.stat().st_size if output.exists() else 0
        while child.poll() is None and killed < 2:
            if output.exists() and output.stat().st_size > before:
                child.send_signal(signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.01)
        if child.wait() == 0:
            break
        assert child.returncode == -signal.SIGKILL
        assert len(output.read_bytes().splitlines()) < len(rows)
    assert killed == 2
    done = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in done] == [row["prompt"] for row in rows]
