"""T5X's checkpoints in and out: layouts, Adafactor's state, what T5X itself wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import flax.serialization
import jax
import numpy as np
import pytest

from tests.convert import t5x_examples as examples
from ul2tune import tree
from ul2tune.convert.t5x import gin_file, legacy
from ul2tune.convert.t5x import models as t5x
from ul2tune.convert.t5x import names as t5x_names
from ul2tune.convert.t5x.models import Export
from ul2tune.optim.adafactor import AdafactorConfig

GOLDEN = "golden/t5x/t511_tiny_legacy"


@pytest.fixture
def golden(shared):
    return str(shared / GOLDEN)


def write(tmp_path, config, params, layout, **changes):
    """Writes `params` in one of the four layouts, two of which the exporter does not offer."""
    leaves = []
    for weight in t5x.weights(config, layout):
        leaf, array = weight.leaf(), params[weight.path]
        for n, name in enumerate(leaf.names):
            leaves.append((name, leaf.to_theirs(array[n] if leaf.stacked else array)))
    leaves = [(name, changes.pop(name, array)) for name, array in leaves]
    leaves = [(name, array) for name, array in leaves if array is not None] + list(changes.items())
    return legacy.write(str(tmp_path), 7, leaves)


SCANNED = (t5x_names.SCANNED, examples.JOINED)  # T5X has no such decoder-only model


@pytest.mark.parametrize(
    ("name", "layout"),
    [(name, layout) for name in ("T5_1_0", "T5_1_1", "UMT5") for layout in SCANNED]
    + [
        (name, layout)
        for name in ("T5_1_0", "T5_1_1", "UMT5", "DECODER_ONLY", "UNTIED")
        for layout in (t5x_names.PLAIN, examples.SPLIT)
    ],
)
def test_every_layout_is_recognised_and_read_exactly(tmp_path, layout, name):
    config = getattr(examples, name)
    params = examples.flat_params(config)
    told = {"dtype": "float32", "activation": config.activation}
    source = t5x.open_model(write(tmp_path, config, params, layout), told)
    assert source.config == config
    assert source.layout == layout
    assert source.step == 7
    read = tree.flatten(t5x.load_params(source))
    assert read.keys() == params.keys()
    for path, array in read.items():
        np.testing.assert_array_equal(array, params[path], err_msg=path)


def test_names_and_shapes_are_those_of_t5x(tmp_path):
    names = {
        name: weight.their_shape
        for weight in t5x_names.weights(examples.T5_1_1, t5x_names.PLAIN)
        for name in weight.names
    }
    assert names["decoder/layers_2/encoder_decoder_attention/out/kernel"] == (12, 8)
    assert names["encoder/layers_1/mlp/wi_0/kernel"] == (8, 12)
    assert names["decoder/logits_dense/kernel"] == (8, 24)
    assert names["encoder/relpos_bias/rel_embedding"] == (3, 32)
    assert len(names) == 1 + 1 + 2 * 9 + 3 * 14 + 4
    names = {
        name: weight.their_shape
        for weight in t5x_names.weights(examples.UMT5, t5x_names.SCANNED)
        for name in weight.names
    }
    assert names["decoder/decoder/self_attention/query/kernel"] == (8, 3, 3, 4)
    assert names["encoder/encoder/attention/out/kernel"] == (3, 2, 4, 8)
    assert names["decoder/decoder/pre_cross_attention_layer_norm/scale"] == (8, 3)
    assert names["decoder/decoder/relpos_bias/rel_embedding"] == (3, 3, 32)
    assert names["encoder/encoder_norm/scale"] == (8,)


def test_a_decoder_without_norm_scale_gets_ones_and_a_note(tmp_path):
    params = examples.flat_params(examples.T5_1_1)
    path = write(
        tmp_path,
        examples.T5_1_1,
        params,
        t5x_names.PLAIN,
        **{"target/decoder/decoder_norm/scale": None},
    )
    source = t5x.open_model(path, {"activation": "silu_gated"})
    assert source.config.activation == "silu_gated"
    (note,) = source.notes
    assert "no scale" in note
    assert (t5x.load_params(source)["decoder"]["final_norm"] == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target/encoder/layers_1/mlp/wo/kernel": None}, "lacks.*encoder/layers_1/mlp/wo"),
        ({"target/encoder/extra/kernel": np.ones(3, np.float32)}, "has no use for"),
        ({"target/encoder/layers_1/mlp/wo/kernel": np.ones((12, 9), np.float32)}, r"\(12, 9\)"),
        ({"flax_mutables/x": np.ones(1, np.float32)}, "flax_mutables/x"),
        ({"target/decoder/layers_0/q_wi_fused/kernel": np.ones(1, np.float32)}, "fused"),
    ],
)
def test_missing_unused_and_misshapen_parameters_are_errors(tmp_path, changes, message):
    params = examples.flat_params(examples.T5_1_1)
    path = write(tmp_path, examples.T5_1_1, params, t5x_names.PLAIN, **changes)
    with pytest.raises(ValueError, match=message):
        t5x.open_model(path)


def test_numbers_that_are_none_are_refused(tmp_path):
    params = examples.flat_params(examples.T5_1_1)
    params["encoder/final_norm"] = np.full(8, np.nan, np.float32)
    path = write(tmp_path, examples.T5_1_1, params, t5x_names.PLAIN)
    with pytest.raises(ValueError, match=r"encoder_norm.*NaN"):
        t5x.load_params(path)


@pytest.mark.parametrize("value", [-1, 3.5, np.array([1, 2]), 2**40, "x"])
def test_a_step_that_is_none_is_refused(tmp_path, value):
    params = examples.flat_params(examples.T5_1_1)
    path = write(tmp_path, examples.T5_1_1, params, t5x_names.PLAIN)
    content = flax.serialization.msgpack_restore((Path(path) / "checkpoint").read_bytes())
    content["optimizer"]["state"]["step"] = value
    (Path(path) / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(content))
    with pytest.raises(ValueError, match="which is no step"):
        assert t5x.open_model(path).step


def test_parameters_of_another_kind_are_refused(tmp_path):
    params = examples.flat_params(examples.T5_1_1)
    scale = {"target/encoder/encoder_norm/scale": np.ones(8, np.int32)}
    path = write(tmp_path, examples.T5_1_1, params, t5x_names.PLAIN, **scale)
    with pytest.raises(ValueError, match=r"encoder_norm.*has dtype int32; T5X's"):
        t5x.load_params(path)


@pytest.mark.parametrize("value", ["5", "[['gelu'], 'linear']", "{'a': 1}", "('tanh',)"])
def test_activations_that_nobody_has_are_refused(value):
    with pytest.raises(ValueError, match="which no model here computes"):
        gin_file.parse(f"network.T5Config.mlp_activations = {value}", "config.gin")


def test_an_export_overwrites_no_other_gin_file(tmp_path):
    params = examples.flat_params(examples.T5_1_1)
    (tmp_path / "model.gin").write_text("MODEL = @mine()")
    export = Export(config=examples.T5_1_1, step=3)
    with pytest.raises(ValueError, match=r"model\.gin exists and describes something else"):
        t5x.export_checkpoint(str(tmp_path), export, params.__getitem__)
    assert [p.name for p in tmp_path.iterdir()] == ["model.gin"]
    (tmp_path / "model.gin").unlink()
    for step in (3, 4):  # the same model
        export = Export(config=examples.T5_1_1, step=step)
        t5x.export_checkpoint(str(tmp_path), export, params.__getitem__)


@pytest.mark.parametrize("dtype", t5x.DTYPES)
@pytest.mark.parametrize(
    ("name", "layout"),
    [("T5_1_1", "plain"), ("UMT5", "scanned"), ("DECODER_ONLY", "plain"), ("UNTIED", "plain")],
)
@pytest.mark.parametrize("form", t5x.FORMATS)
def test_what_is_exported_is_read_again(tmp_path, form, name, layout, dtype):
    config = getattr(examples, name)
    params = examples.flat_params(config)
    scanned = layout == "scanned"
    rules = examples.plans(
        config, AdafactorConfig(stacked_as="scanned" if scanned else "unscanned")
    )
    state = examples.moments(config, rules, 5, momentum=scanned)
    export = Export(
        config=config,
        step=5,
        moments=state,
        plans=rules,
        layout=layout,
        format=form,
        dtype=dtype,
    )
    path = t5x.export_checkpoint(str(tmp_path), export, params.__getitem__)
    source = t5x.open_model(str(tmp_path), {"dtype": "float32"})
    assert source.path == path
    assert source.config == config
    assert source.notes == ()  # model.gin beside it names the activation
    for leaf, array in tree.flatten(t5x.load_params(source)).items():
        wanted = params[leaf].astype(jax.numpy.dtype(dtype)).astype(np.float32)
        np.testing.assert_array_equal(array, wanted, err_msg=leaf)
    again = t5x.load_moments(source, rules)
    assert again.step == 5
    assert (again.momentum is not None) is scanned
    for kind in ("v_row", "v_col", "v", *(["momentum"] if scanned else [])):
        for leaf, array in getattr(state, kind).items():
            np.testing.assert_array_equal(getattr(again, kind)[leaf], array, err_msg=leaf)
    with pytest.raises(ValueError, match="exists already"):
        t5x.export_checkpoint(str(tmp_path), export, params.__getitem__)


def test_rows_and_columns_change_places_where_the_layouts_name_them_differently(tmp_path):
    """[D, H * A] with D > H * A: by size the rows are heads; scanned, they are always "embed"."""
    config = examples.config(
        d_model=192, d_kv=64, num_heads=2, d_ff=130, vocab_size=128, per_layer_relative_bias=True
    )
    params = examples.flat_params(config)
    rules = examples.plans(config, AdafactorConfig(stacked_as="unscanned"))
    state = examples.moments(config, rules, 3)
    query = "encoder/layers/self_attention/query"
    assert state.v_row[query].shape == (2, 2, 64)
    export = Export(config=config, step=3, moments=state, plans=rules, layout="scanned")
    path = t5x.export_checkpoint(str(tmp_path), export, params.__getitem__)
    tensors = t5x.open_tensors(path)[1]
    theirs = tensors.read("state/param_states/encoder/encoder/attention/query/kernel/v_row")
    np.testing.assert_array_equal(theirs, state.v_col[query].T)  # [D, L] and [L, D]
    again = t5x.load_moments(t5x.open_model(path), rules)
    for kind in ("v_row", "v_col", "v"):
        for leaf, array in getattr(state, kind).items():
            np.testing.assert_array_equal(getattr(again, kind)[leaf], array, err_msg=leaf)


def test_a_state_that_holds_nan_is_refused(tmp_path):
    rules = examples.plans(examples.T5_1_1, AdafactorConfig(stacked_as="unscanned"))
    state = examples.moments(examples.T5_1_1, rules, 3)
    state.v["encoder/final_norm"][2] = np.nan
    export = Export(config=examples.T5_1_1, step=3, moments=state, plans=rules)
    params = examples.flat_params(examples.T5_1_1)
    path = t5x.export_checkpoint(str(tmp_path), export, params.__getitem__)
    message = r"encoder_norm/scale/v holds a NaN .* Import without the optimiser's state .--no_opt"
    with pytest.raises(ValueError, match=message):
        t5x.load_moments(t5x.open_model(path), rules)


def test_a_state_of_fewer_updates_than_steps_names_the_way_out():
    """As of every run that began anew from a checkpoint."""
    rules = examples.plans(examples.T5_1_1, AdafactorConfig(stacked_as="unscanned"))
    state = examples.moments(examples.T5_1_1, rules, 3)
    message = r"counts 3 updates at step 9; .* Export without .* \(--no_optimizer_state\)\.$"
    with pytest.raises(ValueError, match=message):
        Export(config=examples.T5_1_1, step=9, moments=state, plans=rules)


def test_a_state_that_only_one_side_factors_is_refused():
    rules = examples.plans(examples.UMT5, AdafactorConfig())
    state = examples.moments(examples.UMT5, rules, 3)
    export = Export(config=examples.UMT5, step=3, moments=state, plans=rules, layout="scanned")
    params = examples.flat_params(examples.UMT5)
    with pytest.raises(ValueError, match="stacked_as = 'scanned'"):
        list(export.leaves(params.__getitem__))


def test_another_optimisers_state_is_refused(tmp_path):
    leaf = {"state/param_states/0/mu/token_embedder/embedding": np.ones(1, np.float32)}
    params = examples.flat_params(examples.T5_1_1)
    path = write(tmp_path, examples.T5_1_1, params, t5x_names.PLAIN, **leaf)
    source = t5x.open_model(path)
    with pytest.raises(ValueError, match="not T5X's Adafactor"):
        t5x.load_moments(source, {})


def test_a_shared_bias_is_repeated_in_the_scanned_layout(tmp_path):
    params = examples.flat_params(examples.T5_1_1)
    export = Export(config=examples.T5_1_1, step=1, layout="scanned")
    path = t5x.export_checkpoint(str(tmp_path), export, params.__getitem__)
    read = tree.flatten(t5x.load_params(path))
    for layer in read["decoder/layers/relative_bias"]:
        np.testing.assert_array_equal(layer, params["decoder/relative_bias"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "diagonal"}, "diagonal"),
        ({"dtype": "int8"}, "int8"),
        ({"config": examples.UMT5}, "export it in the layout 'scanned'"),
        ({"config": examples.config(relative_max_distance=99)}, "relative_max_distance = 99"),
        ({"config": examples.config(tied_logits=True)}, "scale_logits"),
        ({"moments": 4}, "counts 4 updates at step 2"),
    ],
)
def test_what_t5x_does_not_have_is_refused(changes, message):
    if "moments" in changes:
        changes = {
            "moments": examples.moments(
                examples.T5_1_1, examples.plans(examples.T5_1_1, AdafactorConfig()), 4
            )
        }
    with pytest.raises(ValueError, match=message):
        Export(**{"config": examples.T5_1_1, "step": 2, **changes})


def test_a_checkpoint_of_t5x_goes_through_us_unchanged(tmp_path, golden):
    source = t5x.open_model(golden)
    assert source.step == 20
    assert source.notes == ()
    assert source.config == dataclasses.replace(
        examples.config(), vocab_size=384, d_model=128, d_kv=32, d_ff=256, num_heads=4,
        num_decoder_layers=2, dtype="bfloat16",
    )  # fmt: skip
    rules = examples.plans(source.config, AdafactorConfig())
    export = Export(
        config=source.config,
        step=source.step,
        moments=t5x.load_moments(source, rules),
        plans=rules,
    )
    params = tree.flatten(t5x.load_params(source))
    path = t5x.export_checkpoint(str(tmp_path), export, params.__getitem__)
    again = legacy.open_checkpoint(path)
    original = legacy.open_checkpoint(golden)
    assert set(again.names) == set(original.names)
    for name in original.names:
        ours, theirs = again.read(name), original.read(name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    for file in ("checkpoint", "target.encoder.layers_0.mlp.wo.kernel/.zarray"):
        ours, theirs = (f"{folder}/{file}" for folder in (path, original.path))
        with open(ours, "rb") as a, open(theirs, "rb") as b:
            assert a.read() == b.read(), file  # byte for byte what Flax and TensorStore write
