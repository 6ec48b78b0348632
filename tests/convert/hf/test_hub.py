"""Which files of a repository are downloaded. The hub itself is played: tests have no network."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ul2tune.convert.hf import hub

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def downloads(monkeypatch, tmp_path: Path) -> dict:
    """A hub with one repository; records what is asked of it."""
    asked: dict = {"files": []}

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    module = types.ModuleType("huggingface_hub")
    module.list_repo_files = lambda name, revision: asked["files"]  # type: ignore[attr-defined]
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_only_trustworthy_files_of_the_root_are_downloaded(downloads: dict, tmp_path: Path):
    downloads["files"] = [
        "config.json", "model.safetensors.index.json", *SHARDS, "tokenizer.json", "spiece.model",
        "pytorch_model.bin", "modeling_x.py", "sub/model.safetensors", "tf_model.h5", "README.md",
    ]  # fmt: skip
    assert hub.folder("google/flan-t5-xl", "main") == tmp_path
    assert (downloads["name"], downloads["revision"]) == ("google/flan-t5-xl", "main")
    fetched = {name for name in downloads["files"] if name in downloads["patterns"]}
    assert fetched == {
        "config.json", "model.safetensors.index.json", *SHARDS, "tokenizer.json", "spiece.model",
    }  # fmt: skip
    assert not any("*" in pattern for pattern in downloads["patterns"])


def test_a_repository_without_safetensors_is_not_downloaded(downloads: dict):
    downloads["files"] = ["config.json", "pytorch_model.bin", "sub/model.safetensors"]
    with pytest.raises(ValueError, match="holds no safetensors in its root folder"):
        hub.folder("google/old")
    assert "name" not in downloads


def raising(error: Exception) -> Callable[..., None]:
    def fail(name: str, **_: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize("step", ["list_repo_files", "snapshot_download"])
@pytest.mark.parametrize("module", ["hf_xet", "httpx", "httpx2", "huggingface_hub.errors"])
def test_a_hub_that_cannot_be_reached_is_a_sentence(downloads: dict, monkeypatch, step, module):
    # Neither is an OSError.
    transport = type("TransportError", (Exception,), {"__module__": module})
    error = type("ConnectError", (transport,), {})("Name or service not known")
    downloads["files"] = ["config.json", "model.safetensors"]
    monkeypatch.setattr(sys.modules["huggingface_hub"], step, raising(error))
    with pytest.raises(OSError, match=r"google/flan-t5-base cannot .*Name or service not known"):
        hub.folder("google/flan-t5-base")


def test_a_transfer_that_fails_in_rust_is_a_sentence(downloads: dict, monkeypatch):
    error = RuntimeError(
        "Data processing error: CAS service error : Request failed after 5 retries"
    )
    downloads["files"] = ["config.json", "model.safetensors"]
    monkeypatch.setattr(sys.modules["huggingface_hub"], "snapshot_download", raising(error))
    with pytest.raises(OSError, match=r"cannot be downloaded .*CAS service error.*Check the conn"):
        hub.folder("google/flan-t5-base")


def test_a_bug_is_not_blamed_on_the_connection(downloads: dict, monkeypatch):
    error = TypeError("unexpected keyword argument 'revision'")
    monkeypatch.setattr(sys.modules["huggingface_hub"], "list_repo_files", raising(error))
    with pytest.raises(TypeError, match="unexpected keyword"):
        hub.folder("google/flan-t5-base")


def test_what_the_hub_says_itself_stays(downloads: dict, monkeypatch):
    error = FileNotFoundError("404: Repository Not Found")
    monkeypatch.setattr(sys.modules["huggingface_hub"], "list_repo_files", raising(error))
    with pytest.raises(FileNotFoundError, match=r"^404: Repository Not Found$"):
        hub.folder("google/flan-t5-bsae")
