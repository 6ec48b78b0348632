"""The gin file of an imported model means the imported configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin

from tests.models import t5gemma_examples as tiny
from ul2tune.cli import exported, imported
from ul2tune.models.rotary import Rope
from ul2tune.training import drift

# Configurations in configurations, one name with different values.
ENCODER = dataclasses.replace(tiny.ENCODER, rope=Rope(theta=5.0), local_rope=Rope())
CONFIG = tiny.first(encoder=ENCODER)


@gin.configurable
def take_imported(value: Any = None) -> Any:
    return value


def test_gin_files_tell_nested_configurations_apart():
    gin.clear_config()
    try:
        gin.parse_config("DROPOUT_RATE = 0.0")  # the run's
        gin.parse_config(imported.gin_text(CONFIG, "A test."))
        gin.parse_config("take_imported.value = %MODEL")
        assert take_imported() == CONFIG
    finally:
        gin.clear_config()


def test_checkpoints_record_nested_configurations():
    described = drift.describe(CONFIG)
    values = {name: exported._restored(value) for name, value in described.items()}
    del values["class"]
    assert type(CONFIG)(**values) == CONFIG
