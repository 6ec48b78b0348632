"""Loading gin files: what they mean, what is refused and in which words."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from ul2tune.cli import gin_config

BASE = """
from __gin__ import dynamic_registration
import toy

MODEL = @toy.Model()
MODEL_DIR = %gin.REQUIRED
STEPS = 5
WIDTH = 4
toy.Model:
  width = %WIDTH
toy.Run:
  model_dir = %MODEL_DIR
  steps = %STEPS
toy.train:
  model = %MODEL
  run = @toy.Run()
  make_optimizer = @toy.optimizer
  hooks = ['a',  # inside a list
    @scoped/toy.optimizer(), %STEPS]
scoped/toy.optimizer.rate = 7.0
"""


@pytest.fixture(scope="session")
def toy():
    """The module `toy`, importable from gin files; gin wants each class to exist once."""
    spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules["toy"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["toy"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.gin").write_text(BASE)
    return tmp_path


def load(toy, *flags: str, files=("base.gin",), extra: str | None = None):
    pairs = [tuple(flag.split("=", 1)) for flag in flags]
    if extra is not None:
        Path("extra.gin").write_text(extra)
        files = (*files, "extra.gin")
    return gin_config.load(list(files), pairs, roots=[toy.train])


def message(toy, *flags: str, **options) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as info:
        load(toy, *flags, **options)
    return str(info.value)


def test_values_reach_the_root_function(toy, folder):
    result = load(toy, "MODEL_DIR='runs/a'", "STEPS=6").call(toy.train)
    assert result["model"] == toy.Model(width=4)
    assert result["run"] == toy.Run(model_dir="runs/a", steps=6)
    assert result["make_optimizer"]() == 1.0
    assert result["hooks"] == ["a", 7.0, 6]


def test_overrides_of_the_caller_win(toy, folder):
    assert load(toy, "MODEL_DIR=x").call(toy.train, hooks=None)["hooks"] is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("runs/a", "runs/a"), ("'runs/a'", "runs/a"), ("/abs/b-1.c", "/abs/b-1.c"), ("word", "word")],
)
def test_a_bare_word_or_path_is_a_string(toy, folder, text, value):
    assert load(toy, f"MODEL_DIR={text}").call(toy.train)["run"].model_dir == value


def test_a_binding_can_be_set_by_its_plain_name(toy, folder):
    config = load(toy, "MODEL_DIR=x", "Model.rate=0.5", "toy.Model.kind='k'")
    model = config.call(toy.train)["model"]
    assert (model.rate, model.kind) == (0.5, "k")


def test_the_saved_text_is_itself_a_configuration(toy, folder):
    first = load(toy, "MODEL_DIR=x", "Model.lengths={'inputs': 9}")
    (folder / "config.gin").write_text(first.text)
    again = load(toy, files=["config.gin"])
    assert again.text == first.text
    assert repr(again.call(toy.train)["hooks"]) == repr(first.call(toy.train)["hooks"])
    assert again.call(toy.train)["model"] == first.call(toy.train)["model"]


def test_the_text_shows_defaults_and_names_what_gin_cannot_write(toy, folder):
    text = load(toy, "MODEL_DIR=x").text
    assert "rate = 0.1" in text
    assert "lengths = {'inputs': 4}" in text
    assert "# activation: builtins.max (default)" in text


def test_modules_of_the_same_name_get_names_of_their_own(toy, folder):
    extra = (
        "from __gin__ import dynamic_registration\nimport toy\n"
        "from ul2tune.feed import config\n"
        "from ul2tune.training import config as other\n"
        "toy.train.make_optimizer = [@config.FeedConfig, @other.RunConfig]\n"
        "config.FeedConfig:\n  mixture = 'm'\n  data_dir = 'd'\n  batch_size = 1\n"
        "  feature_lengths = {'inputs': 1, 'targets': 1}\n"
        "other.RunConfig:\n  model_dir = 'm'\n  train_steps = 1\n"
    )
    config = load(toy, "MODEL_DIR=x", extra=extra)
    assert "from ul2tune.feed import config as ul2tune_feed_config" in config.text
    assert "from ul2tune.training import config as ul2tune_training_config" in config.text
    feed, run = config.call(toy.train)["make_optimizer"]
    assert feed().mixture == "m"
    assert run().train_steps == 1


def test_required_yields_to_a_value_in_any_order(toy, folder):
    (folder / "values.gin").write_text("MODEL_DIR = 'early'\n")
    config = load(toy, files=["values.gin", "base.gin"])
    assert config.call(toy.train)["run"].model_dir == "early"


def test_files_are_found_here_then_in_the_project_then_in_the_package(toy, folder):
    (folder / "gin").mkdir()
    (folder / "gin" / "mine.gin").write_text("include 'base.gin'\nMODEL_DIR = 'project'\n")
    assert load(toy, files=["mine.gin"]).call(toy.train)["run"].model_dir == "project"
    (folder / "mine.gin").write_text("include 'base.gin'\nMODEL_DIR = 'here'\n")
    assert load(toy, files=["mine.gin"]).call(toy.train)["run"].model_dir == "here"
    assert "did you mean 'runs/pretrain.gin'" in message(toy, files=["runs/pretrian.gin"])


def test_a_misspelt_file_is_looked_for_where_it_was_meant_to_be(toy, folder):
    for name in ("mine/experiment.gin", "top_run.gin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()

    def hint(name: str) -> str:
        return message(toy, files=[name]).partition("is not there")[2].partition(";")[0]

    here = str(folder / "mine" / "expriment.gin")
    assert hint("mine/expriment.gin") == " (did you mean 'mine/experiment.gin'?)"
    assert hint(here) == f" (did you mean '{here.replace('expriment', 'experiment')}'?)"
    assert hint("top_rnu.gin") == " (did you mean 'top_run.gin'?)"
    assert hint("mine/experiment") == " (did you mean 'mine/experiment.gin'?)"
    # A shipped file of another name is not meant, nor is one meant by a path to an own folder.
    assert (
        hint("mine/llama.gin") == hint(str(folder / "llama.gin")) == hint("recipes/foo.gin") == ""
    )
    for name in ("recpies/demo_pretrain.gin", "demo_pretrain.gin", "models/demo_pretrain.gin"):
        assert hint(name) == " (did you mean 'recipes/demo_pretrain.gin'?)"


MISTAKES = {
    "infinite flag": (["STEPS=1e999"], "", r"^--gin.STEPS=1e999: STEPS has a number that is too"),
    "infinite value": (
        [],
        "import toy\ntoy.Model.width = [-1e999]",
        r"^extra.gin:2: Model.width has a number",
    ),
    "misspelt macro flag": (["STPES=9"], "", r"--gin.STPES=9: .*STPES.*did you mean 'STEPS'"),
    "misspelt macro in a file": ([], "STPES = 9", r"extra.gin:1: .*STPES.*did you mean 'STEPS'"),
    "misspelt use": ([], "WIDTH = %STPES", r"extra.gin:1: %STPES.*did you mean 'STEPS'"),
    "unknown parameter": (["Model.widht=1"], "", r"no parameter 'widht' \(did you mean 'width'"),
    "unknown name": (["Modle.width=1"], "", r"'Modle.*did you mean 'Model'"),
    "unused binding": (
        [],
        "import toy\ntoy.other.model = 3",
        r"extra.gin:2: the binding other.model has no effect",
    ),
    "unused scope": (
        ["nowhere/Model.width=1"],
        "",
        r"the binding nowhere/Model.width has no effect",
    ),
    "wrong type": (["STEPS='9'"], "", r"STEPS = '9', but Run.steps must be int"),
    "float for int": (["STEPS=1.5"], "", r"STEPS = 1.5, but Run.steps must be int"),
    "import is not carried": (
        [],
        "toy.Model.width = 3",
        r"extra.gin:1: .*does not import 'toy'; base",
    ),
    "unknown module": ([], "import nowhere.at.all", r"extra.gin:1: cannot import nowhere.at.all"),
    "unknown attribute": ([], "import toy\ntoy.Modle.width = 1", r"no attribute 'Modle'.*'Model'"),
    "syntax": ([], "\nMODEL_DIR = = 3", r"extra.gin:2: not valid gin"),
    "open bracket": (["MODEL_DIR=["], "", r"--gin.MODEL_DIR=\[: not valid gin"),
    "text without quotes": (
        ["MODEL_DIR=(runs,)"],
        "",
        r"--gin.MODEL_DIR=\(runs,\): not valid gin: 'runs' is no value; text needs quotes",
    ),
    "missing include": ([], "include 'bsae.gin'", r"extra.gin:1: gin file 'bsae.gin' is not there"),
    "misspelt default": (
        [],
        "default/MODEL_DRI = 'x'",
        r"extra.gin:1: the macro MODEL_DRI is not used by anything .*'MODEL_DIR'",
    ),
    "macro of T5X that nothing here reads": (
        ["USE_CACHED_TASKS=False"],
        "",
        r"--gin.USE_CACHED_TASKS=False: T5X's USE_CACHED_TASKS has no .*prepared ahead.* it out",
    ),
    "macro whose reader has a value of its own": (
        ["WIDTH=3"],
        "import toy\ntoy.Model.width = 9",
        r"--gin.WIDTH=3: WIDTH is set, but Model.width, .* a value of its own \(extra.gin:2\)",
    ),
    "macro of itself": (
        ["STEPS=%STEPS"],
        "",
        r"--gin.STEPS=%STEPS: STEPS needs its own value \(%STEPS -> %STEPS\)",
    ),
    "macros in a circle": (
        [],
        "WIDTH = %A\nA = %B\nB = [%A]",
        r"extra.gin:3: B needs its own value \(%A -> %B -> %A\)",
    ),
    "calls in a circle": (
        [],
        "import toy\nWIDTH = @toy.optimizer()\ntoy.optimizer.rate = %WIDTH",
        r"extra.gin:3: .*rate needs .* \(%WIDTH -> @\S*toy.optimizer\(\) -> %WIDTH\)",
    ),
    "itself called": (
        [],
        "import toy\ntoy.train.hooks = @toy.train()",
        r"extra.gin:2: train.hooks needs its own value",
    ),
    "broken module": (
        [],
        "import broken_toy",
        r"cannot import broken_toy: .*broken_toy.py:2 is not",
    ),
    "not importable": (
        [],
        "import lacking_toy",
        r"extra.gin:1: cannot import lacking_toy: .*'gone'",
    ),
    "missing extra": (
        [],
        "import needy_toy",
        r"extra.gin:1: .*'apache_beam'.*Install it with pip install 'ul2tune\[beam\]'",
    ),
    "a gin file of T5X": (
        [],
        "from t5x import models",
        r"extra.gin:1: cannot import t5x.models: no module named 't5x.*'. T5X's .* Ours, in gin/",
    ),
    "text for a model": (
        ["MODEL=5"],
        "",
        r"--gin.MODEL=5: MODEL = 5, but train.model must be Model",
    ),
    "cycle": ([], "include 'extra.gin'", r"extra.gin:1: extra.gin includes itself"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_with_place_and_remedy(toy, folder, mistake, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    for absent in ("apache_beam", "t5x"):
        monkeypatch.setitem(sys.modules, absent, None)
    (folder / "broken_toy.py").write_text("\nx = = 3\n")
    (folder / "lacking_toy.py").write_text("from ul2tune import gone\n")
    (folder / "needy_toy.py").write_text("import apache_beam\n")
    flags, extra, pattern = MISTAKES[mistake]
    found = message(toy, "MODEL_DIR=x", *flags, extra=extra)
    assert re.search(pattern, found), found


def test_a_required_macro_is_named_with_the_file_that_wants_it(toy, folder):
    found = message(toy)
    assert found.startswith("MODEL_DIR is required by base.gin:6")
    assert "--gin.MODEL_DIR=" in found


def test_a_misspelt_required_macro_is_found_where_it_was_written(toy, folder):
    found = message(toy, extra="\nMODEL_DRI = 'x'")
    assert "nothing sets it (did extra.gin:2 mean it?)" in found
    found = message(toy, "MODEL_DR=x")
    assert found.startswith("MODEL_DIR is required")
    assert "(did --gin.MODEL_DR=x mean it?)" in found


WRONG_TYPES = {
    "text for a configuration": ("model = 'm'", "must be Model | None"),
    "class for a configuration": ("model = @toy.Show", r"toy.Show\(\)\?"),
    "another class": ("model = @toy.Show()", "must be Model | None"),
    "text for a function": ("init = 'foo'", r"init must be Callable\[\[int\], int\] | None"),
    "number for a hook": ("hooks = (1,)", r"hooks = \(1,\).* must be Sequence\[Hook\]"),
    "number for a hook in a macro": ("hooks = [%W]", r"must be Sequence\[Hook\]"),
    "function that lacks a member": ("hooks = (@toy.lacking,)", r"must be Sequence\[Hook\]"),
    "class for a hook": ("hooks = (@toy.Show,)", r"must be Sequence\[Hook\]"),
    "text for sequence": ("names = 'abc'", "must be tuple"),
    "item of a tuple": ("names = ('a', 1)", "must be tuple"),
    "length of a tuple": ("pair = ('a',)", "must be tuple"),
    "items of a pair": ("pair = (1, 'a')", "must be tuple"),
    "value of a mapping": ("rates = {'a': '1'}", r"rates must be Mapping\[str, float\]"),
    "key of a mapping": ("rates = {1: 1.0}", r"rates must be Mapping\[str, float\]"),
}


@pytest.mark.parametrize("mistake", WRONG_TYPES)
def test_values_of_other_types_are_refused_with_their_place(toy, folder, mistake):
    line, pattern = WRONG_TYPES[mistake]
    macro = "W = 4" if "%W" in line else ""
    (folder / "typed.gin").write_text(f"import toy\n{macro}\ntoy.typed.{line}\n")
    with pytest.raises(ValueError, match=pattern) as info:
        gin_config.load(["typed.gin"], roots=[toy.typed])
    assert str(info.value).startswith("typed.gin:3: ")


def test_values_of_the_declared_types_pass(toy, folder):
    (folder / "typed.gin").write_text(
        "import toy\nW = 4\ntoy.Model.width = %W\ntoy.optimizer.rate = 2\n"
        "toy.typed:\n  model = @toy.Model()\n  init = @toy.optimizer\n"
        "  hooks = (@toy.Show(), @toy.with_period)\n  pair = ('a', %W)\n  names = ['a', 'b']\n"
        "  rates = {'a': 1, 'b': 2.5}\n"
    )
    found = gin_config.load(["typed.gin"], roots=[toy.typed]).call(toy.typed)
    assert found["pair"] == ("a", 4)
    assert found["hooks"][0] == toy.Show()


@pytest.mark.parametrize(("kind", "error"), [("io", FileNotFoundError), ("bug", KeyError)])
def test_other_errors_come_as_they_were_raised(toy, folder, kind, error):
    extra = f"import toy\ntoy.train.make_optimizer = @toy.fails()\ntoy.fails.kind = {kind!r}"
    with pytest.raises(error) as info:
        load(toy, "MODEL_DIR=x", extra=extra).call(toy.train)
    assert type(info.value) is error
    assert "configurable" not in str(info.value)


def test_a_module_at_the_top_may_have_the_name_of_one_of_ours(toy, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "config.py").write_text("def mine(x=1):\n    return x\n")
    extra = (
        "import config\nimport toy\nfrom ul2tune.feed import config as other\n"
        "toy.train.make_optimizer = [@config.mine(), @other.FeedConfig]\n"
        "other.FeedConfig:\n  mixture = 'm'\n  data_dir = 'd'\n  batch_size = 1\n"
        "  feature_lengths = {'inputs': 1, 'targets': 1}\n"
    )
    config = load(toy, "MODEL_DIR=x", extra=extra)
    assert "\nimport config\n" in config.text
    assert config.call(toy.train)["make_optimizer"][0] == 1
    monkeypatch.delitem(sys.modules, "config")


def test_a_gin_file_that_is_not_utf_8_is_named(toy, folder):
    (folder / "latin.gin").write_bytes("# café\n".encode("latin-1"))
    assert message(toy, files=["latin.gin"]).startswith("latin.gin: not a gin file: byte 5")


def test_a_parameter_without_a_value_is_named(toy, folder):
    (folder / "base.gin").write_text(BASE.replace("width = %WIDTH", "rate = 0.5"))
    assert "Model needs a value for width" in message(toy, "MODEL_DIR=x")


def test_an_unbound_command_is_said_to_be_so(toy, folder):
    with pytest.raises(ValueError, match=r"nothing binds toy\.other"):
        gin_config.load(["base.gin"], [("MODEL_DIR", "x")], roots=[toy.other])


def test_a_configuration_class_rejects_in_its_own_words(toy, folder):
    config = load(toy, "MODEL_DIR=x", "WIDTH=0")
    with pytest.raises(ValueError, match=r"^Model\.width = 0 must be positive\.$"):
        config.call(toy.train)


def test_t5x_name_of_the_task_modules(toy, folder):
    extra = "import toy\ntoy.Model.kind = 'x'\ntoy.train.hooks = %TASK_MODULES"
    (folder / "base.gin").write_text(re.sub(r"  hooks = .*\n.*\nscoped.*\n", "", BASE))
    config = load(toy, "MODEL_DIR=x", "MIXTURE_OR_TASK_MODULE='tasks.ul2'", extra=extra)
    assert config.call(toy.train)["hooks"] == ("tasks.ul2",)
    assert "MIXTURE_OR_TASK_MODULE" not in config.text


def test_idle_values_of_the_users_own_files_are_remarked_on(toy, folder):
    (folder / "gin").mkdir()
    (folder / "gin" / "shared.gin").write_text("TRAIN_STEPS = 1\n")
    config = load(toy, "MODEL_DIR=x", extra="BATCH_SIZE = 3\ninclude 'shared.gin'\n")
    assert config.notes == ("extra.gin:1: BATCH_SIZE is not used by this command.",)
    assert "BATCH_SIZE" not in config.text
