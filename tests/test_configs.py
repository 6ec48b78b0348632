"""Every shipped gin file: parses, resolves, is short where it should be, and is what it was."""

from __future__ import annotations

import pytest

from tests.cli import golden_configs as golden
from ul2tune.cli import gin_config
from ul2tune.cli.gin_source import Program, macros_in

# gin/t5x is for T5X, which reads it with its own loader (tests/integrations/test_t5x.py).
FILES = sorted(f for f in golden.GIN.rglob("*.gin") if f.parent.name != "t5x")
RECIPES = golden.recipes()
MAX_RECIPE_LINES = 15
T5X_MACROS = {
    "MODEL", "MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "TRAIN_STEPS",
    "TRAIN_STEPS_RELATIVE", "INITIAL_CHECKPOINT_PATH", "BATCH_SIZE", "DROPOUT_RATE", "OPTIMIZER",
    "LOSS_NORMALIZING_FACTOR", "Z_LOSS", "LABEL_SMOOTHING", "EVAL_STEPS", "EVAL_PERIOD",
    "RANDOM_SEED", "SHUFFLE_TRAIN_EXAMPLES", "CHECKPOINT_PATH", "EVAL_OUTPUT_DIR",
    "EVALUATOR_NUM_EXAMPLES", "VOCABULARY",
}  # fmt: skip


def name(path):
    return str(path.relative_to(golden.GIN))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_file_parses_and_everything_it_names_exists(file):
    program = Program(gin_config.project.gin_search_paths())
    program.read_file(str(file))
    gin_config.gin_check.check_bindings(program)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_file_says_what_it_is(file):
    assert file.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("file", RECIPES, ids=name)
def test_recipe_is_what_it_was(file):
    text = golden.golden_text(file)
    expected = (golden.GOLDEN / file.name).read_text(encoding="utf-8")
    assert text == expected, (
        f"The operative configuration of {file.name} changed. If that was meant, run "
        f"`make goldens` and commit the difference."
    )


def test_no_golden_is_left_over():
    assert {path.name for path in golden.GOLDEN.glob("*.gin")} == {path.name for path in RECIPES}


@pytest.mark.parametrize("file", RECIPES, ids=name)
def test_golden_is_itself_a_configuration(file):
    (arguments,) = golden.commands(file)
    path = golden.GOLDEN / file.name
    again = golden.resolve([arguments[0], f"--gin_file={path}"])
    assert again.text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", RECIPES, ids=name)
def test_recipe_builds_what_it_configures(file):
    """Construction of every configuration class, with its own checks of its values."""
    (arguments,) = golden.commands(file)
    config = golden.resolve(arguments)
    for root in golden.roots(arguments[0]):
        config.arguments(root)


@pytest.mark.parametrize("file", RECIPES, ids=name)
def test_recipe_is_short_and_documented(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line.strip() and not line.startswith("#")]
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert len(code) <= MAX_RECIPE_LINES
    assert "Expected:" in header
    assert "Paper:" in header or file.stem == "demo_eval"


@pytest.mark.parametrize("file", [f for f in FILES if f not in RECIPES], ids=name)
def test_commands_in_headers_resolve(file):
    for arguments in golden.commands(file):
        golden.resolve(arguments)


def test_macros_have_the_names_of_t5x():
    assert set().union(*(macros_in(file) for file in FILES)) >= T5X_MACROS
