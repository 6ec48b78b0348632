"""A setting with a few allowed texts names them, whatever stands there instead."""

from __future__ import annotations

import pytest

from tests.cli import test_resume as resume
from ul2tune.checkpoints.adapt import FromDecoderOnly
from ul2tune.cli import gin_check
from ul2tune.evaluation.infer import InferConfig
from ul2tune.feed.config import FeedConfig
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.rotary import Rope
from ul2tune.models.t5 import T5Config
from ul2tune.models.t5gemma import StackConfig, T5GemmaConfig
from ul2tune.optim.adafactor import AdafactorConfig
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.optim.schedules import ScheduleConfig
from ul2tune.training.loss import LossConfig

COMPUTED = {"activation": "gelu_gated", "dtype": "bfloat16", "remat": "none", "attention": "auto"}
CHOICES = {
    T5Config: COMPUTED,
    T5GemmaConfig: {name: COMPUTED[name] for name in ("dtype", "remat", "attention")},
    StackConfig: {"activation": "gelu_gated"},
    DecoderConfig: {**COMPUTED, "norm": "rms", "norm_order": "pre"},
    Rope: {"scaling": "llama3"},
    OptimizerConfig: {"name": "lion"},
    ScheduleConfig: {"name": "rsqrt"},
    AdafactorConfig: {"stacked_as": "scanned"},
    FeedConfig: {"layout": "causal_lm", "packing": "greedy", "document_separator": "eos"},
    LossConfig: {"normalizer": "sum"},
    FromDecoderOnly: {"cross_attention": "copy"},
    InferConfig: {"input_format": "jsonl"},
}


@pytest.mark.parametrize(
    ("kind", "field", "one"),
    [(kind, *choice) for kind, choices in CHOICES.items() for choice in choices.items()],
)
def test_what_a_field_may_be(kind, field, one):
    assert repr(one) in gin_check._one_of(kind, field)
    assert gin_check._one_of(T5Config, "num_heads") == ""


@pytest.mark.parametrize(
    ("macro", "value", "told"),
    [
        (
            "PACKING",
            True,
            "PACKING = True, but FeedConfig.packing must be str, one of 'balanced', 'greedy', "
            "'none'.",
        ),
        ("PACKING", "ffd", "FeedConfig.packing is 'ffd': use one of balanced, greedy, none."),
    ],
)
def test_a_wrong_value_is_answered_by_the_allowed_ones(
    macro, value, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    macros = resume.MACROS | {macro: value, "TRAIN_STEPS": 1}
    assert resume.train(resume.FILES, **macros) == 1
    assert told in capsys.readouterr().err
