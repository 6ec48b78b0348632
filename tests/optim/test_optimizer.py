from __future__ import annotations

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ul2tune import sharding, tree
from ul2tune.optim.adafactor import AdafactorConfig
from ul2tune.optim.directions import AdamWConfig, LionConfig, MuonConfig, matrix_dims
from ul2tune.optim.optimizer import OptimizerConfig, make
from ul2tune.optim.schedules import ScheduleConfig
from ul2tune.optim.state_sharding import state_shardings

AXES = {
    "embedding": ("vocab", "embed"),
    "encoder": {
        "bias": ("heads", "relpos_buckets"),
        "layers": {
            "norm": ("layers", "embed"),
            "out": ("layers", "heads", "kv", "embed"),
            "wi": ("layers", "embed", "mlp"),
        },
    },
}
SHAPES = {
    "embedding": (12, 8),
    "encoder": {
        "bias": (2, 4),
        "layers": {"norm": (3, 8), "out": (3, 2, 4, 8), "wi": (3, 8, 16)},
    },
}
RATE = ScheduleConfig(learning_rate=0.1)


def random_tree(seed: int):
    rng = np.random.default_rng(seed)
    return tree.map_with_path(
        lambda _, shape: jnp.asarray(rng.normal(size=shape).astype(np.float32)), SHAPES
    )


PARAMS = random_tree(0)
# An embedding, a norm and a kernel: enough to tell configurations apart, and quick to compile.
FEW = {
    "embedding": True,
    "encoder": {"bias": False, "layers": {"norm": True, "out": False, "wi": True}},
}


def updates(config: OptimizerConfig, num_steps: int = 2, only=None):
    """Flat updates of the last of `num_steps` steps, of the parameters `only` marks."""
    params, axes = PARAMS, AXES
    if only is not None:
        params, axes = (tree.partition(whole, only)[0] for whole in (PARAMS, AXES))
    optimizer = make(config, params, axes)
    params, _ = tree.partition(params, optimizer.trainable)
    state = optimizer.tx.init(params)
    update = jax.jit(optimizer.tx.update)
    result = {}
    for step in range(num_steps):
        flat = tree.flatten(random_tree(10 + step))
        grads = tree.unflatten({path: flat[path] for path in tree.flatten(params)})
        result, state = update(grads, state, params)
        params = optax.apply_updates(params, result)
    return tree.flatten(result)


def difference(first, second) -> float:
    assert first.keys() == second.keys()
    return max(float(jnp.abs(first[path] - second[path]).max()) for path in first)


@pytest.mark.parametrize("name", ["adafactor", "adamw", "lion", "muon"])
def test_learns_a_least_squares_problem(name):
    inputs, target = np.random.default_rng(0).normal(size=(2, 64, 8)).astype(np.float32)
    mixing = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    target = inputs @ mixing

    def loss(params):
        return jnp.mean((inputs @ params["w"] - target) ** 2)

    schedule = ScheduleConfig(name="linear", learning_rate=0.1, total_steps=150)
    config = OptimizerConfig(name=name, schedule=schedule, max_grad_norm=10.0)
    params = {"w": jnp.full((8, 8), 0.1)}
    tx = make(config, params, {"w": ("embed", "mlp")}).tx

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            grads = jax.grad(loss)(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=150)[0][0]

    assert loss(run(params)) < 0.02 * loss(params)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", optax.adamw(0.1, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.3)),
        ("lion", optax.lion(0.1, b1=0.9, b2=0.99, weight_decay=0.3)),
    ],
)
def test_equals_optax_with_decay_everywhere(name, reference):
    config = OptimizerConfig(name=name, schedule=RATE, weight_decay=0.3, decay_groups=[(".*", 1.0)])
    params, state, expected = PARAMS, reference.init(PARAMS), None
    update = jax.jit(reference.update)
    for step in range(2):
        expected, state = update(random_tree(10 + step), state, params)
        params = optax.apply_updates(params, expected)
    assert difference(updates(config), tree.flatten(expected)) < 1e-6


def test_muon_moves_matrices_by_optax_muon_layer_by_layer_and_the_rest_by_adam():
    moved = updates(OptimizerConfig(name="muon", schedule=RATE), num_steps=1)
    adam = updates(OptimizerConfig(name="adamw", schedule=RATE), num_steps=1)
    for path in ("embedding", "encoder/bias", "encoder/layers/norm"):
        np.testing.assert_allclose(moved[path], adam[path], atol=1e-6)
    reference = optax.contrib.muon(0.1, consistent_rms=0.2)
    update = jax.jit(reference.update)
    grads = tree.flatten(random_tree(10))
    for path, matrix in (("encoder/layers/wi", (8, 16)), ("encoder/layers/out", (8, 8))):
        for layer in range(3):
            grad = {"w": grads[path][layer].reshape(matrix)}
            expected, _ = update(grad, reference.init(grad), grad)
            actual = moved[path][layer].reshape(matrix)
            np.testing.assert_allclose(actual, expected["w"], atol=1e-5)


def test_muon_sees_kernels_as_in_times_out():
    assert matrix_dims("q", ("layers", "embed", "heads", "kv")) == ((1,), (2, 3))
    assert matrix_dims("o", ("layers", "heads", "kv", "embed")) == ((1, 2), (3,))
    assert matrix_dims("wo", ("mlp", "embed")) == ((0,), (1,))
    for axes in (("vocab", "embed"), ("layers", "embed"), ("heads", "relpos_buckets"), ("embed",)):
        assert matrix_dims("p", axes) is None


def test_multipliers_scale_updates_and_frozen_parameters_have_no_state():
    groups = [("encoder/layers/.*", 0.5), ("embedding", "freeze"), ("encoder/bias", None)]
    optimizer = make(OptimizerConfig(schedule=RATE, groups=groups), PARAMS, AXES)
    assert tree.flatten(optimizer.trainable) == {
        "embedding": False,
        "encoder/bias": False,
        "encoder/layers/norm": True,
        "encoder/layers/out": True,
        "encoder/layers/wi": True,
    }
    trainable, frozen = tree.partition(PARAMS, optimizer.trainable)
    state = optimizer.tx.init(trainable)
    assert (12, 8) not in {leaf.shape for leaf in jax.tree.leaves(state)}
    assert tree.num_elements(trainable) + tree.num_elements(frozen) == tree.num_elements(PARAMS)

    half = updates(OptimizerConfig(schedule=RATE, groups=groups), num_steps=1)
    whole = updates(OptimizerConfig(schedule=RATE), num_steps=1)
    for path, value in half.items():
        np.testing.assert_allclose(value, 0.5 * whole[path], rtol=1e-6)


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_frozen_groups_work_with_every_kind_of_state(name):
    groups = [("encoder/layers/wi", None), ("encoder/bias", None), (".*", 1.0)]
    moved = updates(OptimizerConfig(name=name, schedule=RATE, groups=groups))
    assert set(moved) == {"embedding", "encoder/layers/norm", "encoder/layers/out"}


def test_decay_spares_norms_and_bias_tables_unless_told_otherwise():
    def decay(**values):
        groups = {key: value for key, value in values.items() if key == "groups"}
        plain = updates(OptimizerConfig(name="adamw", schedule=RATE, **groups), num_steps=1)
        decayed = updates(
            OptimizerConfig(name="adamw", schedule=RATE, weight_decay=0.3, **values), num_steps=1
        )
        flat = tree.flatten(PARAMS)
        ratios = {p: (plain[p] - decayed[p]) / flat[p] for p in flat}
        for path, ratio in ratios.items():
            np.testing.assert_allclose(ratio, jnp.mean(ratio), atol=1e-3, err_msg=path)
        return {path: round(float(jnp.mean(ratio)), 3) for path, ratio in ratios.items()}

    every = ["embedding", "encoder/bias", "encoder/layers/norm"]
    every += ["encoder/layers/out", "encoder/layers/wi"]
    assert decay() == dict(zip(every, [0.03, 0, 0, 0.03, 0.03]))
    table = [("encoder/layers/norm", 2.0), ("embedding", 0.0), (".*", 1.0)]
    assert decay(decay_groups=table) == dict(zip(every, [0, 0.03, 0.06, 0.03, 0.03]))
    # T5X's plain weight_decay_rate does not depend on the learning rate.
    assert decay(weight_decay_lr_exponent=0.0) == dict(zip(every, [0.3, 0, 0, 0.3, 0.3]))
    assert decay(groups=[("e.*", 0.5)]) == dict(zip(every, [0.015, 0, 0, 0.015, 0.015]))


def test_clipping_bounds_the_global_norm_of_the_trainable_gradients():
    """Adam without moments would hide a scale; what clips shows in Adafactor's moments."""
    config = OptimizerConfig(schedule=RATE, max_grad_norm=0.5)
    optimizer = make(config, PARAMS, AXES)
    grads = random_tree(10)
    norm = tree.global_norm(grads)
    update = jax.jit(optimizer.tx.update)
    for scale, expected in ((1.0, 0.5), (0.1 / float(norm), 0.1)):
        scaled = jax.tree.map(lambda g, s=scale: s * g, grads)
        _, state = update(scaled, optimizer.tx.init(PARAMS), PARAMS)
        squares = sum(jnp.sum(v) for v in jax.tree.leaves(state[1].v))
        np.testing.assert_allclose(jnp.sqrt(squares), expected, rtol=1e-5)


def test_the_schedule_counts_updates_and_is_what_gets_logged():
    schedule = ScheduleConfig(name="linear", learning_rate=1.0, total_steps=4)
    config = OptimizerConfig(name="lion", schedule=schedule)
    optimizer = make(config, PARAMS, AXES)
    state = optimizer.tx.init(PARAMS)
    for step in range(4):
        largest = max(float(jnp.abs(u).max()) for u in updates(config, step + 1).values())
        assert largest == pytest.approx(float(optimizer.learning_rate(state)))
        _, state = optimizer.tx.update(PARAMS, state, PARAMS)


def test_describe_lists_the_groups_in_order():
    groups = [("encoder/bias", None), ("encoder/.*", 0.5), (".*", 1.0)]
    config = OptimizerConfig(name="muon", schedule=RATE, groups=groups, weight_decay=0.1)
    rows = make(config, jax.eval_shape(lambda: PARAMS), AXES).rows
    assert [dataclasses.astuple(row) for row in rows] == [
        ("encoder/bias", None, 8, 0, "frozen"),
        ("encoder/.*", 0.5, 24 + 192 + 384, 192 + 384, "muon (2), adam (1)"),
        (".*", 1.0, 96, 96, "muon (0), adam (1)"),
    ]


@pytest.mark.parametrize("name", ["adafactor", "adamw", "lion", "muon"])
def test_state_lies_where_its_parameters_lie(name):
    algorithm = {"adafactor": AdafactorConfig(momentum=0.9, min_dim_size_to_factor=9)}
    config = OptimizerConfig(name=name, schedule=RATE, max_grad_norm=1.0)
    config = dataclasses.replace(config, **(algorithm if name == "adafactor" else {}))
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    params = jax.device_put(PARAMS, sharding.param_shardings(PARAMS, AXES, mesh))
    optimizer = make(config, params, AXES)
    shardings = sharding.param_shardings(PARAMS, AXES, mesh)
    abstract = jax.eval_shape(optimizer.tx.init, params)
    chosen = state_shardings(abstract, params, shardings, mesh)
    state = jax.jit(optimizer.tx.init, out_shardings=chosen)(params)

    expected = {leaf.shape: leaf.sharding.spec for leaf in jax.tree.leaves(params)}
    seen = set()
    for leaf in jax.tree.leaves(state):
        if leaf.shape in expected:
            assert leaf.sharding.spec == expected[leaf.shape]
            seen.add(leaf.shape)
        else:
            assert leaf.sharding.is_fully_replicated
    assert seen == expected.keys()

    # A sharded step: the same numbers, and nothing moves elsewhere.
    grads = random_tree(10)
    update = jax.jit(optimizer.tx.update, out_shardings=(shardings, chosen))
    with jax.set_mesh(mesh):
        actual, _ = update(jax.device_put(grads, shardings), state, params)
    alone, _ = jax.jit(optimizer.tx.update)(grads, optimizer.tx.init(PARAMS), PARAMS)
    assert difference(tree.flatten(actual), tree.flatten(alone)) < 1e-5


PERTURBED = {
    "name": "lion",
    "schedule": ScheduleConfig(learning_rate=0.2),
    "adafactor": AdafactorConfig(decay_rate=0.5),
    "adamw": AdamWConfig(b1=0.5),
    "lion": LionConfig(b1=0.5),
    "muon": MuonConfig(beta=0.5),
    "max_grad_norm": 1e-3,
    "weight_decay": 0.1,
    "weight_decay_lr_exponent": 0.0,
    "groups": [(".*", 0.5)],
    "decay_groups": [(".*", 1.0)],
}
ALGORITHMS = {
    "adafactor": {
        "decay_rate": 0.5,
        "step_offset": 1,
        "clipping_threshold": 0.1,
        "multiply_by_parameter_scale": False,
        "momentum": 0.9,
        "factored": False,
        "min_dim_size_to_factor": 4,
        "stacked_as": "scanned",
        "epsilon1": 1.0,
        "epsilon2": 10.0,
    },
    "adamw": {"b1": 0.5, "b2": 0.5, "eps": 1.0},
    "lion": {"b1": 0.1, "b2": 0.1},
    "muon": {
        "beta": 0.5,
        "newton_schulz_steps": 2,
        "nesterov": False,
        "consistent_rms": None,
        "adam_b1": 0.5,
        "adam_b2": 0.5,
        "adam_eps": 1.0,
    },
}
BASES = {
    "adafactor": AdafactorConfig(min_dim_size_to_factor=10, stacked_as="unscanned"),
    "adamw": AdamWConfig(),
    "lion": LionConfig(),
    "muon": MuonConfig(),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_hyperparameter_changes_the_updates(name):
    # Three steps: with fewer, Lion's signs may agree by luck.
    assert {f.name for f in dataclasses.fields(BASES[name])} == ALGORITHMS[name].keys()
    base = OptimizerConfig(name=name, schedule=RATE, **{name: BASES[name]})
    default = updates(base, 3, FEW)
    for field, value in ALGORITHMS[name].items():
        algorithm = dataclasses.replace(BASES[name], **{field: value})
        if (name, field) == ("adafactor", "factored"):
            # Nothing is factored by default at these sizes: start from what is.
            scanned = dataclasses.replace(BASES[name], stacked_as="scanned")
            before = updates(dataclasses.replace(base, adafactor=scanned), 3, FEW)
            algorithm = dataclasses.replace(scanned, factored=False)
        else:
            before = default
        changed = updates(dataclasses.replace(base, **{name: algorithm}), 3, FEW)
        assert difference(before, changed) > 1e-5, field


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(OptimizerConfig)])
def test_every_field_changes_the_updates(field):
    name = field if field in ALGORITHMS else "adafactor"
    if field == "max_grad_norm":
        name = "adamw"  # Adafactor does not see the scale of gradients
    decays = field in ("weight_decay_lr_exponent", "decay_groups")
    base = OptimizerConfig(name=name, schedule=RATE, weight_decay=0.1 if decays else 0.0)
    changed = dataclasses.replace(base, **{field: PERTURBED[field]})
    assert difference(updates(base, only=FEW), updates(changed, only=FEW)) > 1e-5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "sgd"}, "'sgd' is unknown; use one of adafactor, adamw, lion, muon"),
        ({"name": "lion", "adamw": AdamWConfig(b1=0.5)}, "OptimizerConfig.adamw = .* ignored"),
        ({"max_grad_norm": 0.0}, "max_grad_norm = 0.0 must be positive"),
        ({"max_grad_norm": math.nan}, "max_grad_norm = nan must be positive"),
        ({"weight_decay": math.nan}, "weight_decay = nan must be a number of at least 0"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0 must be a number of at least 0"),
        ({"decay_groups": [(".*", 1.0)]}, "would be ignored, as weight_decay is 0"),
        ({"weight_decay_lr_exponent": 0.0}, "would be ignored, as weight_decay is 0"),
    ],
)
def test_wrong_configurations_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**values)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([("encoder/.*", 1.0)], "groups does not cover parameter 'embedding'"),
        ([(".*", None)], "freezes every parameter"),
        ([(".*", math.inf)], r"gives '\.\*' the learning-rate multiplier inf"),
        ([(".*", 0.0)], r"gives '\.\*' the learning-rate multiplier 0.0"),
        ([(".*", "frozen")], "multiplier 'frozen'; it must be a positive number, or None"),
    ],
)
def test_wrong_groups_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        make(OptimizerConfig(groups=groups), PARAMS, AXES)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "0.5", None])
def test_wrong_multipliers_of_the_decay_are_refused(value):
    config = OptimizerConfig(weight_decay=0.1, decay_groups=[(".*", value)])
    with pytest.raises(ValueError, match=rf"gives '\.\*' the multiplier {value!r} of the weight"):
        make(config, PARAMS, AXES)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (AdamWConfig, {"b2": 1.0}, "AdamWConfig.b2 = 1.0 is not in"),
        (AdamWConfig, {"eps": 0.0}, "AdamWConfig.eps = 0.0 must be positive"),
        (AdamWConfig, {"eps": math.nan}, "AdamWConfig.eps = nan must be positive"),
        (LionConfig, {"b1": -0.1}, "LionConfig.b1 = -0.1 is not in"),
        (MuonConfig, {"beta": 2.0}, "MuonConfig.beta = 2.0 is not in"),
        (MuonConfig, {"newton_schulz_steps": 0}, "newton_schulz_steps = 0 must be positive"),
        (MuonConfig, {"consistent_rms": 0.0}, "consistent_rms = 0.0 must be positive"),
    ],
)
def test_directions_refuse_what_they_cannot_use(kind, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**values)
