"""What is installed, where it comes from, and that nothing names a machine or a host of ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from ul2tune.cli import extras

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def tracked() -> list[Path]:
    """Files under version control, or all files of a checkout without git."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode == 0 and listing.stdout:
        return [ROOT / name for name in listing.stdout.split("\0") if name]
    folders = ("ul2tune", "tasks", "gin", "tests", "tools", "docs", ".ci")
    return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, FileNotFoundError):
        return ""


def pinned() -> dict[str, set[str]]:
    """Package -> its pinned versions, one per range of Python versions."""
    pins: dict[str, set[str]] = {}
    for line in CONSTRAINTS.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition("==")
            pins.setdefault(name, set()).add(rest.split(";")[0].strip())
    return pins


def test_no_index_or_machine_is_named():
    forbidden = re.compile(
        r"--(extra-)?index[-]url\s+\S|--find[-]links\s+\S|--trusted[-]host\s+\S"
        r"|[/](root|home)[/]\w+[/]"
        r"|https?://[^\s\"'>)]*(simple|pypi)[^\s\"'>)]*"
    )
    wrong = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked()
        if path != Path(__file__) and (match := forbidden.search(text_of(path)))
    ]
    assert not wrong, "\n".join(wrong)


def test_constraints_hold_names_versions_and_markers_only():
    line = re.compile(r"[\w.-]+==[\w.+!]+( ; [\w\s.'=<>!()]+)?")
    bad = [x for x in CONSTRAINTS.splitlines() if x and x[0] != "#" and not line.fullmatch(x)]
    assert not bad


def test_every_direct_dependency_is_pinned():
    wanted = [*PROJECT["dependencies"]]
    for extra, items in EXTRAS.items():
        wanted += items if extra not in ("beam", "all") else []
    assert {_name(item) for item in wanted} - set(pinned()) == set()


def test_the_beam_extra_cannot_be_pinned_with_the_rest():
    """Its sentencepiece is another one; otherwise it would belong into the constraints."""
    (own,) = (item for item in EXTRAS["beam"] if _name(item) == "sentencepiece")
    assert own.partition("==")[2] not in pinned()["sentencepiece"]


def test_every_package_of_an_extra_is_named_where_it_is_missing():
    modules = {"pyyaml": "yaml"}
    core = {_name(item) for item in PROJECT["dependencies"]}
    for extra in set(extras.EXTRAS.values()) | {"prepare", "beam", "eval", "hf", "report"}:
        for name in {_name(item) for item in EXTRAS[extra]} - core:
            assert extras.EXTRAS[modules.get(name, name.replace("-", "_"))] == extra


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=; ]", requirement)[0].lower().replace("_", "-")


def test_pins_are_for_both_generations_of_jax():
    assert {v.split(".")[1] for v in pinned()["jax"]} == {"10", "12"}
    assert {v.rsplit(".", 1)[1] for v in pinned()["flax"]} == {"8", "12"}


@pytest.mark.parametrize("package", ["jax", "flax", "seqio", "rouge-score", "sentencepiece"])
def test_what_is_installed_is_what_is_pinned(package):
    """Some of these install an old version where the new one has no wheel, without a word."""
    assert version(package) in pinned()[package]


def test_tensorflow_is_only_in_the_prepare_extra():
    assert not [item for item in PROJECT["dependencies"] if "tensorflow" in item or "seqio" in item]
    assert any("tensorflow" in item for item in PROJECT["optional-dependencies"]["prepare"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel as the build backend makes it; no network, no isolation."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_puts_nothing_else_at_the_top(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"ul2tune"}
    assert "ul2tune/project/gin/runs/train.gin" in names
    assert "ul2tune/project/tasks/ul2.py" in names
    assert "ul2tune/instructions/stdlib_instructions.json" in names
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.slow
def test_installed_wheel_writes_a_working_project(wheel, tmp_path):
    """A new environment with the wheel and our dependencies: `init`, then resolve a recipe."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    outer = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    # Dependencies only: the editable install's own .pth file would bring this checkout along.
    (site / "dependencies.pth").write_text(f"{outer}\n")

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        code = "import sys; from ul2tune.cli.main import main; sys.exit(main())"
        command = [str(environment / "bin" / "python"), "-c", code, *arguments]
        return subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=False, env=env
        )

    made = run("init", "mine", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "mine" / "gin" / "runs" / "train.gin").is_file()
    assert (tmp_path / "mine" / "tasks" / "ul2.py").is_file()
    for folder in (tmp_path / "mine", tmp_path):  # the project's own files, then the package's
        shown = run("train", "--gin_file=recipes/demo_pretrain.gin", "--print_config", cwd=folder)
        assert shown.returncode == 0, shown.stderr
        assert "MIXTURE_OR_TASK_NAME = 'ul2_stdlib'" in shown.stdout
    where = run("train", "--gin_file=nowhere.gin", cwd=tmp_path).stderr
    assert str(site) in where
