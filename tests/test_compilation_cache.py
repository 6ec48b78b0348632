"""A folder for compiled programs holds from where it is named, also in a process that has one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from tests.decoding import tiny
from tests.evaluation import prepared
from ul2tune import compilation_cache
from ul2tune.evaluation.infer import InferConfig, infer
from ul2tune.evaluation.run import EvalConfig, evaluate
from ul2tune.sharding import MeshConfig

OPTIONS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture(autouse=True)
def everything_is_kept():
    names = ("jax_compilation_cache_dir", *OPTIONS)
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in OPTIONS.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


def compile_another(factor: float) -> None:
    jax.jit(lambda x: jnp.sin(x) * factor)(jnp.ones(3)).block_until_ready()


def test_the_folder_named_last_is_used(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    compilation_cache.use(str(first))
    compile_another(1.25)
    kept = sorted(first.iterdir())
    assert kept
    compilation_cache.use(str(second))
    compile_another(2.25)
    assert list(second.iterdir())
    assert sorted(first.iterdir()) == kept


def test_none_leaves_what_is_set(tmp_path):
    compilation_cache.use(str(tmp_path / "set"))
    compilation_cache.use(None)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "set")
    compile_another(3.25)
    assert list((tmp_path / "set").iterdir())


def ask_evaluate(folder, cache: str) -> None:
    paths = ("instructions", str(folder / "nothing prepared"), str(folder / "no model"))
    output = str(folder / "eval")
    evaluate(tiny.MODEL, *paths, MeshConfig(), output, EvalConfig(), compilation_cache_dir=cache)


def ask_infer(folder, cache: str) -> None:
    paths = (str(folder / "no model"), MeshConfig(), str(folder / "no prompts"), "-")
    vocabulary, config = prepared.VOCABULARY, InferConfig()
    infer(tiny.MODEL, vocabulary, *paths, config, compilation_cache_dir=cache)


@pytest.mark.parametrize("ask", [ask_evaluate, ask_infer])
def test_evaluate_and_infer_take_a_folder(tmp_path, ask):
    cache = str(tmp_path / "cache")
    with pytest.raises((FileNotFoundError, ValueError), match=r"set DATA_DIR|is no file"):
        ask(tmp_path, cache)
    assert jax.config.jax_compilation_cache_dir == cache
