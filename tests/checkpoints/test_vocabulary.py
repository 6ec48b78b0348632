"""Which vocabularies a checkpoint goes on with."""

from __future__ import annotations

import json

import jax.numpy as jnp
import pytest

from tests.checkpoints import saving
from ul2tune.checkpoints import layout, vocabulary
from ul2tune.data import tokenizer_files, vocab

SETTING = "RunConfig.allow_other_vocabulary"


def sentencepiece(sha256: str, **more) -> vocab.Vocabulary:
    sizes = {"base_size": 32000, "extra_ids": 100}
    return vocab.load({"kind": "sentencepiece", "file": "f", "sha256": sha256, **sizes, **more})


def saved(model_dir, meta):
    saving.save(model_dir, 3, {"step": jnp.int32(3)}, meta)
    return model_dir / layout.SUBDIRECTORY / "3"


def extended(base):
    return vocab.load({"kind": "extended", "base": base.to_json(), "added": ["<tool>"]})


@pytest.mark.parametrize(
    "now",
    [
        sentencepiece("a"),
        sentencepiece("a", modes=("R", "S", "X")),
        extended(sentencepiece("a", modes=("R", "S", "X"))),
    ],
)
def test_modes_and_added_tokens_are_no_other_vocabulary(tmp_path, now):
    for then in (sentencepiece("a"), extended(sentencepiece("a"))):
        folder = tmp_path / then.kind
        step_dir = saved(folder, {vocabulary.KEY: vocabulary.identity(then)})
        vocabulary.check(step_dir, now, allow=False, setting=SETTING)


@pytest.mark.parametrize("now", [sentencepiece("b"), vocab.load("bytes")])
def test_another_vocabulary_is_refused_unless_allowed(tmp_path, caplog, now):
    step_dir = saved(tmp_path, {vocabulary.KEY: vocabulary.identity(sentencepiece("a"))})
    with pytest.raises(ValueError, match=r"3 was trained with another vocabulary \(.*sha256 a\)"):
        vocabulary.check(step_dir, now, allow=False, setting=SETTING)
    assert not caplog.records
    vocabulary.check(step_dir, now, allow=True, setting=SETTING)
    assert "would be read as other words" in caplog.text


def test_only_hashes_are_cut_for_people():
    facts = vocabulary.identity(sentencepiece("0123456789abcdef"))
    assert vocabulary.words(facts) == "kind sentencepiece, sha256 0123456789ab"
    assert vocabulary.words({"kind": "bytes", "base_size": 259}) == "kind bytes, base_size 259"


def test_a_checkpoint_that_does_not_say_is_taken(tmp_path, caplog):
    step_dir = saved(tmp_path, {})
    with caplog.at_level("INFO", "ul2tune"):
        vocabulary.check(step_dir, sentencepiece("a"), allow=False, setting=SETTING)
    assert "does not say which vocabulary" in caplog.text


def test_an_imported_model_has_what_came_along(tmp_path):
    step_dir = saved(tmp_path, {})
    described = json.dumps(sentencepiece("a").to_json())
    (tmp_path / tokenizer_files.DESCRIPTION).write_text(described)
    vocabulary.check(step_dir, sentencepiece("a", modes=("S",)), allow=False, setting=SETTING)
    way = rf"UL2TUNE_VOCABULARY={tmp_path}\); or, .* set {SETTING}"
    with pytest.raises(ValueError, match=way):
        vocabulary.check(step_dir, sentencepiece("b"), allow=False, setting=SETTING)


def test_what_is_made_of_checkpoints_keeps_the_vocabulary_they_share(tmp_path):
    identities = [vocabulary.identity(sentencepiece(sha256)) for sha256 in ("a", "a", "b")]
    first, second, other = (
        saved(tmp_path / str(i), {vocabulary.KEY: facts}) for i, facts in enumerate(identities)
    )
    silent = saved(tmp_path / "silent", {})
    assert vocabulary.carried([silent, first, second]) == {vocabulary.KEY: identities[0]}
    assert vocabulary.carried([silent]) == {}
    with pytest.raises(ValueError, match=r"different vocabularies \(.*sha256 a and .*sha256 b\)"):
        vocabulary.carried([first, second, other])
