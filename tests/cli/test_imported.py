"""The gin file of an imported model means the imported configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin

from tests.models import t5gemma_examples as tiny
from ul2tune.cli import imported
from ul2tune.models.rotary import Rope

# How the run computes: no fact of the model, so the imported file leaves it.
RECIPE = """
from __gin__ import dynamic_registration
from ul2tune.models import t5gemma
t5gemma.T5GemmaConfig.dtype = 'float32'
t5gemma.T5GemmaConfig.remat = 'dots'
t5gemma.T5GemmaConfig.scan_layers = False
t5gemma.T5GemmaConfig.vocab_size = 3
DROPOUT_RATE = 0.0
"""
# Configurations in configurations, one name with different values.
ENCODER = dataclasses.replace(tiny.ENCODER, rope=Rope(theta=5.0), local_rope=Rope())
CONFIG = tiny.first(encoder=ENCODER)


@gin.configurable
def take_imported(value: Any = None) -> Any:
    return value


def test_gin_files_tell_nested_configurations_apart_and_leave_a_recipe_how_it_computes():
    gin.clear_config()
    try:
        gin.parse_config(RECIPE)
        gin.parse_config(imported.gin_text(CONFIG, "A test."))
        gin.parse_config("take_imported.value = %MODEL")
        computed = {"dtype": "float32", "remat": "dots", "scan_layers": False}
        assert take_imported() == dataclasses.replace(CONFIG, **computed)
    finally:
        gin.clear_config()
