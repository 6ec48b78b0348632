"""The README's commands: each is a make target or a `ul2tune` command that resolves."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seqio

from tests.cli import golden_configs
from ul2tune.cli import options
from ul2tune.data import vocab
from ul2tune.data.ragged import Ragged
from ul2tune.data.ul2 import UL2Noise
from ul2tune.models import base
from ul2tune.models.t5 import T5Config
from ul2tune.optim import optimizer

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks(text: str) -> Iterator[str]:
    """Fenced blocks of shell, and indented ones."""
    for _, language, block in FENCE.findall(text):
        if language in ("", "sh", "bash", "console"):
            yield block
    lines = FENCE.sub("\n", text).splitlines()
    yield "\n".join(line if line.startswith("    ") else "" for line in lines)


def lines(text: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Lines of blocks in their order, continued ones joined, comments left out: the environment of
    each, of its prefixes and what its block exported before, and its words."""
    for block in blocks(text):
        exported: dict[str, str] = {}
        for line in re.sub(r" *\\\n *", " ", block).splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # no shell, or one that goes on
                continue
            exports = words[:1] == ["export"]
            words, values = words[exports:], {}
            while words and re.match(r"\w+=", words[0]):
                name, _, values[name] = words.pop(0).partition("=")
            if exports:
                exported |= values
            elif words:
                yield exported | values, words


def commands(start: str, texts: Iterable[str] | None = None) -> list[str]:
    """Those that begin with `start`, without their environment."""
    found = {
        shlex.join(words)
        for text in texts or [document.read_text() for document in DOCUMENTS]
        for _, words in lines(text)
        if words[0] == start
    }
    return sorted(found)


def goes_on_with_a_checkpoint_in_its_own_vocabulary(words: list[str]) -> bool:
    """Whether a command reads a checkpoint, and data whose vocabulary the environment names."""
    files = [ROOT / "gin" / word.removeprefix("--gin_file=") for word in words]
    texts = [*words, *(path.read_text() for path in files if path.is_file())]
    reads = any(re.search(r"(INITIAL_)?CHECKPOINT_PATH *=", text) for text in texts)
    return reads and any(re.search(r"\bdata/\w+_own\.gin", text) for text in texts)


def with_shipped_models(words: list[str]) -> list[str]:
    """The arguments of a command. A run's own model.gin is not there yet: a shipped one is."""
    shipped = "decoder_tiny" if any("qwen" in word for word in words) else "t5_1_1_tiny"
    return [re.sub(r"=\S*/model\.gin$", f"=models/{shipped}.gin", word) for word in words]


def test_commands_are_found_in_fences_and_indented_blocks():
    text = (
        "```sh\nA=1 B='x y' run one \\\n  --two='a b' # three\nother\n```\n\n"
        "    run four\n\n- an item\n\n      run five \\\n        six\n\nrun seven\n"
        "```python\nrun eight\n```\n"
    )
    assert commands("run", [text]) == ["run five six", "run four", "run one '--two=a b'"]


def test_commands_have_the_environment_of_their_prefixes_and_earlier_exports():
    text = "```sh\nB=1 run one\nexport A='x y' B=2  # c\nC=3 run two\n```\n\n    run three\n"
    assert list(lines(text)) == [
        ({"B": "1"}, ["run", "one"]),
        ({"A": "x y", "B": "2", "C": "3"}, ["run", "two"]),
        ({}, ["run", "three"]),
    ]


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, *sorted((ROOT / "gin").rglob("*.gin"))], ids=lambda path: path.name
)
def test_commands_that_go_on_with_a_checkpoint_name_its_vocabulary(document):
    text = document.read_text()
    if document.suffix == ".gin":
        text = "\n".join(f"  {line[1:]}" for line in text.splitlines() if line.startswith("#   "))
    for environment, words in lines(text):
        if words[0] == "ul2tune" and goes_on_with_a_checkpoint_in_its_own_vocabulary(words):
            assert "UL2TUNE_VOCABULARY" in environment, shlex.join(words)


def test_which_commands_need_a_vocabulary():
    needs = goes_on_with_a_checkpoint_in_its_own_vocabulary
    assert needs(["--gin_file=recipes/t5_ul2r.gin"])
    assert needs(["--gin_file=data/ul2r_own.gin", "--gin.INITIAL_CHECKPOINT_PATH=a"])
    assert not needs(["--gin_file=data/ul2r_own.gin"])
    assert not needs(["--gin_file=recipes/demo_tune.gin"])


def test_the_first_screen_has_the_two_commands():
    first_screen = "\n".join(DOCUMENTS[0].read_text().splitlines()[:40])
    assert "make demo" in first_screen
    assert "make test" in first_screen


@pytest.mark.parametrize("command", commands("make"))
def test_make_targets_exist(command):
    makefile = (ROOT / "Makefile").read_text()
    for word in shlex.split(command)[1:]:
        name, _, value = word.partition("=")
        pattern = rf"^{name} \?=" if value else rf"^{name}:"
        assert re.search(pattern, makefile, re.MULTILINE), word


@pytest.mark.parametrize("command", commands("ul2tune"))
def test_commands_parse_and_their_gin_files_resolve(command):
    arguments = with_shipped_models(shlex.split(command)[1:])
    parsed = options.parse(arguments)
    if parsed.command in options.GIN_COMMANDS and any("gin" in word for word in arguments):
        golden_configs.resolve(arguments)


def test_documented_commands_prepare_a_mixture_in_one_vocabulary_per_folder():
    """Who follows all pages in one folder is not refused: data is prepared in one vocabulary."""
    used: dict[tuple[str, str], dict[str | None, str]] = {}
    for document in DOCUMENTS:
        for environment, words in lines(document.read_text()):
            if words[:2] not in (["ul2tune", "train"], ["ul2tune", "prepare"]):
                continue
            macros = golden_configs.resolve(with_shipped_models(words[1:])).macros
            place = (macros.get("DATA_DIR", "prepared"), macros["MIXTURE_OR_TASK_NAME"])
            vocabulary = environment.get("UL2TUNE_VOCABULARY")
            used.setdefault(place, {})[vocabulary] = f"{document.name}: {shlex.join(words)}"
    assert ("prepared", "ul2r_own") in used
    assert [found for found in used.values() if len(found) > 1] == []


def test_documented_groups_decide_parameters_of_the_model():
    """`make` refuses a pattern that matches none, and parameters that none matches."""
    (found,) = (shlex.split(command) for command in commands("ul2tune") if ".groups=" in command)
    tables = {
        field: ast.literal_eval(word.partition("=")[2])
        for field in ("groups", "decay_groups")
        for word in found
        if word.startswith(f"--gin.OptimizerConfig.{field}=")
    }
    sizes = {"num_heads": 1, "num_encoder_layers": 1, "num_decoder_layers": 1}
    model = T5Config(vocab_size=64, d_model=8, d_kv=8, d_ff=8, **sizes)
    config = optimizer.OptimizerConfig(name="adamw", weight_decay=0.01, **tables)
    made = optimizer.make(config, base.abstract_params(model), base.param_axes(model))
    assert [row.lr_multiplier for row in made.rows] == [None, 0.1, 1.0]


def test_documented_noise_announces_its_modes():
    """The Python of docs/data.md with a `UL2Config`, in a vocabulary without such a mode."""
    (code,) = (
        block
        for _, language, block in FENCE.findall((ROOT / "docs" / "data.md").read_text())
        if language == "python" and "UL2Config" in block
    )
    names: dict[str, Any] = {}
    exec(code, names)
    seqio.TaskRegistry.remove("own_noise")
    vocabulary = vocab.load("bytes")
    noise = UL2Noise(names["noise"].tokenize_modes(vocabulary.encode), vocabulary.info)
    segments = Ragged.from_rows([vocabulary.encode("plain text, " * 10)] * 2)
    inputs, _ = noise.apply(segments, [0, 1], np.arange(2, dtype=np.uint64))
    assert [vocabulary.decode(row[:3].tolist()) for row in inputs] == ["[R]", "[Q]"]


@pytest.mark.slow
def test_the_first_real_run_stays_in_the_vocabulary_of_its_text(tmp_path):
    """What the README's commands after the first train on, in the order of its two environments."""
    words = "".join(chr(97 + i // 26) + chr(97 + i % 26) + "ord " for i in range(300))
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"{words[i:]} {i}"}) + "\n" for i in range(200))
    )
    code = (
        "import os, sys\n"
        "files = os.environ['UL2TUNE_TEXT']\n"
        "from ul2tune.prepare.tasks import register_text_task\n"
        "import seqio, tasks.own_vocabulary\n"
        "register_text_task('notes', files, format='jsonl', vocabulary='trained')\n"
        "for name in ('notes', 'ul2r_own', 'instructions_own'):\n"
        "    task = seqio.get_mixture_or_task(name)\n"
        "    print(task.output_features['targets'].vocabulary.vocabulary.fingerprint)\n"
    )
    environment = {
        "UL2TUNE_TEXT": f"{tmp_path}/*.jsonl",
        "UL2TUNE_VOCABULARY": "trained",
        "UL2TUNE_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    first, *others = found.stdout.split()
    assert others == [first, first]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(document):
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target
    for target in re.findall(
        r"`((?:ul2tune|gin|tasks|tools|tests|docs)/[\w/.]+\.\w+)`", document.read_text()
    ):
        assert (ROOT / target).exists(), target
