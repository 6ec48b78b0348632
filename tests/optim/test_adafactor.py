"""Axes: N layers, D model, H heads, A head size, F mlp."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ul2tune import tree
from ul2tune.optim import optimizer as optimizers
from ul2tune.optim.adafactor import AdafactorConfig, AdafactorState, scale_by_adafactor
from ul2tune.optim.factoring import Factoring, Role, factoring, roles
from ul2tune.optim.optimizer import OptimizerConfig
from ul2tune.optim.schedules import ScheduleConfig

GOLDEN_AXES = {
    "k3": ("embed", "heads", "kv"),
    "m": ("embed", "mlp"),
    "v": ("embed",),
    "small": ("relpos_buckets", "heads"),
}


def normal(seed: int, shape) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def train(params, axes, config=None, num_steps=3, learning_rate=0.01, gradients=None):
    """Parameters after each step, and the last state."""
    adafactor = config or AdafactorConfig()
    config = OptimizerConfig(
        schedule=ScheduleConfig(learning_rate=learning_rate), adafactor=adafactor
    )
    tx = optimizers.make(config, params, axes).tx

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, history = tx.init(params), []
    for index in range(num_steps):
        grads = (gradients or default_gradients)(index, params)
        params, state = step(params, state, grads)
        history.append(params)
    return history, state


def default_gradients(index, params):
    return jax.tree.map(lambda p: normal(10 + index, p.shape), params)


def test_goldens(shared):
    golden = np.load(shared / "golden/ul2/adafactor.npz")
    params = {name: jnp.asarray(golden[f"P_{name}"]) for name in GOLDEN_AXES}
    history, _ = train(params, GOLDEN_AXES)
    for index, after in enumerate(history):
        for name, value in after.items():
            want = golden[f"step{index}_{name}"]
            np.testing.assert_allclose(value, want, rtol=0, atol=1e-6, err_msg=f"{index} {name}")


def test_one_update_by_hand():
    """beta is 0 at the first update: v is the squared gradient, the direction its sign."""
    params = {"w": jnp.full((2, 2), 3.0)}
    grads = {"w": jnp.array([[4.0, -0.5], [1e-3, -7]])}
    tx = scale_by_adafactor(AdafactorConfig(), {"w": ("embed", "mlp")})
    updates, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], 3 * jnp.sign(grads["w"]), rtol=1e-6)
    np.testing.assert_allclose(state.v["w"], jnp.square(grads["w"]), rtol=1e-6)
    assert state.count == 1

    # Factored: v = outer(row means, column means) / mean.
    factored = AdafactorConfig(min_dim_size_to_factor=1, clipping_threshold=None)
    tx = scale_by_adafactor(factored, {"w": ("embed", "mlp")})
    updates, _ = tx.update(grads, tx.init(params), params)
    squares = np.square(np.asarray(grads["w"], np.float64))
    v = np.outer(squares.mean(1), squares.mean(0)) / squares.mean()
    np.testing.assert_allclose(updates["w"], 3 * grads["w"] / np.sqrt(v), rtol=1e-5)

    # Clipping divides by the root mean square once that is above the threshold.
    clipped = AdafactorConfig(min_dim_size_to_factor=1, clipping_threshold=0.25)
    tx = scale_by_adafactor(clipped, {"w": ("embed", "mlp")})
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(jnp.sqrt(jnp.mean((updates["w"] / 3) ** 2)), 0.25, rtol=1e-6)


STACKED_AXES = {
    "query": ("layers", "embed", "heads", "kv"),
    "out": ("layers", "heads", "kv", "embed"),
    "wi": ("layers", "embed", "mlp"),
    "wo": ("layers", "mlp", "embed"),
    "norm": ("layers", "embed"),
    "bias": ("layers", "heads", "relpos_buckets"),
}
N = 3


def stack(big: bool) -> dict[str, jax.Array]:
    d, h, a, f = (130, 4, 33, 140) if big else (8, 2, 3, 12)
    shapes = {
        "query": (N, d, h, a),
        "out": (N, h, a, d),
        "wi": (N, d, f),
        "wo": (N, f, d),
        "norm": (N, d),
        "bias": (N, h, 32),
    }
    # Layers of very different scale: any average over layers would show.
    scale = {
        n: jnp.array([1.0, 10.0, 0.1]).reshape(N, *[1] * (len(s) - 1)) for n, s in shapes.items()
    }
    return {name: scale[name] * normal(1, shape) for name, shape in shapes.items()}


def layer(stacked, index, axes, join):
    """One layer's arrays and axes, with heads joined into one dimension if `join`."""
    arrays, layer_axes = {}, {}
    for name, array in stacked.items():
        array, names = array[index], axes[name][1:]
        if join and "kv" in names:
            at = names.index("heads")
            array = array.reshape(*array.shape[:at], -1, *array.shape[at + 2 :])
            names = tuple(n for n in names if n != "kv")
        arrays[name], layer_axes[name] = array, names
    return arrays, layer_axes


@pytest.mark.parametrize(
    ("big", "momentum"), [(True, 0.9), (False, None)], ids=["factored, momentum", "too small"]
)
def test_a_stack_trains_as_its_layers_would_one_by_one(big, momentum):
    """Ours: heads split, layers stacked. T5X's `examples/t5`: a joined matrix per layer."""
    stacked = stack(big)
    config = AdafactorConfig(momentum=momentum)
    gradients = [
        {name: np.asarray(10.0**i * p * normal(i, p.shape)) for name, p in stacked.items()}
        for i in range(3)
    ]
    history, _ = train(stacked, STACKED_AXES, config, gradients=lambda i, _: gradients[i])
    for number in range(N):
        alone, axes = layer(stacked, number, STACKED_AXES, join=True)
        slices = [layer(g, number, STACKED_AXES, join=True)[0] for g in gradients]
        after, _ = train(alone, axes, config, gradients=lambda i, _, s=slices: s[i])
        for name, value in after[-1].items():
            want = history[-1][name][number].reshape(value.shape)
            np.testing.assert_allclose(value, want, rtol=2e-6, atol=2e-6, err_msg=name)


def test_scanned_rule_equals_the_axes_rule_of_one_layer_at_any_size():
    stacked = {name: value for name, value in stack(big=False).items() if value.ndim == 4}
    axes = {name: STACKED_AXES[name] for name in stacked}
    config = AdafactorConfig(stacked_as="scanned")
    history, state = train(stacked, axes, config)
    assert state[0].v_row["query"].shape == (N, 8)
    assert state[0].v_col["query"].shape == (N, 2, 3)
    for number in range(N):
        alone, alone_axes = layer(stacked, number, axes, join=False)
        after, _ = train(
            alone,
            alone_axes,
            gradients=lambda i, _, n=number: jax.tree.map(
                lambda p: p[n], default_gradients(i, stacked)
            ),
        )
        for name, value in after[-1].items():
            np.testing.assert_allclose(value, history[-1][name][number], rtol=2e-6, atol=2e-6)


def rule(shape, axes, stacked_as="unscanned", min_dim_size=128) -> Factoring:
    return factoring("p", shape, axes, min_dim_size=min_dim_size, stacked_as=stacked_as)


def test_rank_two_goes_by_size_and_ignores_axes():
    assert rule((384, 256), ("vocab", "embed")).row_dims == (1,)  # the larger one is the column
    assert rule((128, 256), ("embed", "mlp")).row_dims == (0,)
    assert rule((200, 200), ("embed", "embed")).row_dims == (0,)  # equal: the first is the row
    assert not rule((127, 9000), ("embed", "mlp")).is_factored
    assert not rule((4, 32), ("heads", "relpos_buckets")).is_factored
    assert rule((300,), ("embed",)) == Factoring(mean_dims=(0,))
    assert rule((), ()) == Factoring(mean_dims=())


def test_rank_three_goes_by_axes_jointly_whatever_the_size():
    assert rule((6, 2, 3), ("embed", "heads", "kv")) == Factoring(
        mean_dims=(0, 1, 2), row_dims=(0,), column_dims=(1, 2)
    )


def test_stacks_never_average_over_layers():
    assert rule((9, 300), ("layers", "embed")) == Factoring(mean_dims=(1,))
    assert rule((9, 300, 8), ("layers", "heads", "relpos_buckets")) == Factoring(mean_dims=(1, 2))
    kernel, axes = (9, 130, 4, 40), ("layers", "embed", "heads", "kv")
    expected = Factoring(mean_dims=(1, 2, 3), row_dims=(1,), column_dims=(2, 3))
    assert rule(kernel, axes) == rule(kernel, axes, "scanned") == expected
    small = (9, 130, 4, 31)  # joined heads: 124 < 128
    assert rule(small, axes) == Factoring(mean_dims=(1, 2, 3))
    assert rule(small, axes, "scanned") == expected
    # As in a joined [H * A, D]: of equal sides the first one is the row.
    assert rule((9, 4, 32, 128), ("layers", "heads", "kv", "embed")).row_dims == (1, 2)


def test_state_holds_only_what_is_used():
    params = {"q": jnp.ones((2, 130, 4, 40)), "n": jnp.ones((2, 130)), "b": jnp.ones((4, 8))}
    axes = {
        "q": ("layers", "embed", "heads", "kv"),
        "n": ("layers", "embed"),
        "b": ("heads", "relpos_buckets"),
    }
    state = scale_by_adafactor(AdafactorConfig(), axes).init(params)
    assert isinstance(state, AdafactorState)
    shapes = {k: [t[k].shape for t in (state.v_row, state.v_col, state.v)] for k in params}
    assert shapes == {
        "q": [(2, 130), (2, 4, 40), (1,)],
        "n": [(1,), (1,), (2, 130)],
        "b": [(1,), (1,), (4, 8)],
    }


def test_step_offset_forgets_the_moments_of_pretraining():
    params, axes = {"w": jnp.ones((4, 4))}, {"w": ("embed", "mlp")}
    config = AdafactorConfig(step_offset=1000)
    tx = scale_by_adafactor(config, axes)
    carried = tx.init(params)._replace(count=jnp.int32(1000), v={"w": jnp.full((4, 4), 1e6)})
    _, state = tx.update({"w": jnp.full((4, 4), 2.0)}, carried, params)
    np.testing.assert_allclose(state.v["w"], 4.0)
    _, state = tx.update({"w": jnp.full((4, 4), 3.0)}, state, params)
    beta = 1 - 2**-0.8
    np.testing.assert_allclose(state.v["w"], beta * 4 + (1 - beta) * 9, rtol=1e-6)


def test_moments_and_updates_are_float32_for_bfloat16_gradients():
    params, axes = {"w": jnp.ones((4, 4))}, {"w": ("embed", "mlp")}
    tx = scale_by_adafactor(AdafactorConfig(), axes)
    updates, state = tx.update({"w": jnp.ones((4, 4), jnp.bfloat16)}, tx.init(params), params)
    assert updates["w"].dtype == state.v["w"].dtype == jnp.float32


def test_zero_gradients_move_nothing_and_stay_finite():
    params, axes = {"w": jnp.ones((130, 130))}, {"w": ("embed", "mlp")}
    history, state = train(params, axes, gradients=lambda i, p: jax.tree.map(jnp.zeros_like, p))
    np.testing.assert_array_equal(history[-1]["w"], params["w"])
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_the_axes_of_t5xs_own_models_have_rules():
    """T5X: `joined_kv` is a column, `stack` counts matrices, a norm's scale is neither."""
    kernel = rule((3, 130, 140), ("stack", "embed", "joined_kv"))
    assert kernel == Factoring(mean_dims=(1, 2), row_dims=(1,), column_dims=(2,))
    assert rule((130, 3, 140), ("embed", "stack", "mlp")).mean_dims == (0, 2)
    assert rule((130,), ("layer_norm_scale",)) == Factoring(mean_dims=(0,))


def test_the_axes_of_t5xs_fused_kernels_are_columns():
    for axes in (("embed", "q_wi_fused"), ("o_wo_fused", "embed"), ("embed", "kv_fused")):
        assert set(roles("p", axes)) == {Role.ROW, Role.COLUMN}
    assert roles("p", ("embed", "mlp_activations", "mlp"))[1:] == (Role.COLUMN, Role.COLUMN)
    assert roles("p", ("embed", "multiquery_heads", "kv"))[1:] == (Role.COLUMN, Role.COLUMN)


@pytest.mark.parametrize(("stacked_as", "dims"), [("scanned", (0, 1, 2)), ("unscanned", (0, 2))])
def test_what_is_not_factored_has_t5xs_means(stacked_as, dims):
    """Scanned, T5X takes them over all layers at once; layers of their own have their own."""
    config = AdafactorConfig(factored=False, stacked_as=stacked_as)
    found = config.factoring("p", (130, 3, 160), ("embed", "layers", "mlp"))
    assert found == Factoring(mean_dims=dims)


def test_unknown_and_half_factored_axes_are_refused():
    with pytest.raises(ValueError, match=r"'p' has the logical axis 'experts', .* knows embed"):
        roles("p", ("experts", "embed"))
    with pytest.raises(ValueError, match=r"'p' .* dimension 1, which is neither"):
        roles("p", ("embed", None, "mlp"))


def test_no_momentum_and_momentum_zero_step_alike():
    params, axes = {"w": jnp.ones((2, 3))}, {"w": ("embed", "mlp")}
    none, zero = (train(params, axes, AdafactorConfig(momentum=m))[0][-1]["w"] for m in (None, 0.0))
    assert not np.array_equal(none, params["w"])
    np.testing.assert_array_equal(none, zero)


def test_updating_without_parameters_is_refused():
    tx = scale_by_adafactor(AdafactorConfig(), {"w": ("embed",)})
    params = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match="pass params to update"):
        tx.update(params, tx.init(params))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stacked_as": "joined"}, "'joined' is unknown; use one of unscanned, scanned"),
        ({"momentum": 1.0}, "momentum = 1.0 is not in"),
        ({"momentum": -0.1}, "momentum = -0.1 is not in"),
        ({"clipping_threshold": 0.0}, "clipping_threshold = 0.0 must be positive"),
        ({"clipping_threshold": math.nan}, "clipping_threshold = nan must be positive"),
        ({"decay_rate": -0.8}, "decay_rate = -0.8 must be positive; T5's is 0.8, which Transf"),
        ({"decay_rate": math.nan}, "decay_rate = nan must be positive"),
        ({"epsilon2": -1.0}, "epsilon2 = -1.0 must be a number of at least 0"),
        ({"epsilon2": math.nan}, "epsilon2 = nan must be a number of at least 0"),
    ],
)
def test_wrong_configurations_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AdafactorConfig(**values)


def test_momentum_averages_whole_steps_learning_rate_included():
    """T5X's beta1: halving the rate does not shrink what momentum already holds."""
    params, axes = {"w": jnp.ones((2, 2))}, {"w": ("embed", "mlp")}
    config = AdafactorConfig(momentum=0.5, multiply_by_parameter_scale=False)
    history, state = train(params, axes, config, num_steps=1, learning_rate=0.1)
    step = history[0]["w"] - params["w"]
    sign = jnp.sign(default_gradients(0, params)["w"])
    np.testing.assert_allclose(step, -0.5 * 0.1 * sign, atol=1e-6)
    np.testing.assert_allclose(state[1].momentum["w"], 0.05 * sign, rtol=1e-6)
    assert set(tree.flatten(state[1].momentum)) == {"w"}


@pytest.mark.parametrize("size", [1.0, 1e6, 1e15])
def test_a_row_without_gradient_beside_large_ones_stays_where_it_is(size):
    """As a sum of losses over a large batch makes them: the row's share of the mean underflows."""
    params = {"w": normal(0, (4, 8))}
    config = AdafactorConfig(min_dim_size_to_factor=2)
    gradients = {"w": jnp.full((4, 8), size).at[1].set(0)}
    (after,), _ = train(
        params, {"w": ("embed", "mlp")}, config, 1, gradients=lambda index, params: gradients
    )
    np.testing.assert_array_equal(after["w"][1], params["w"][1])
    assert np.all(np.isfinite(after["w"]))
    assert np.all(after["w"][0] < params["w"][0])


@pytest.mark.parametrize("epsilon1", [0.0, 1e-40, -1.0])
def test_an_epsilon_that_is_0_in_float32_is_refused(epsilon1):
    with pytest.raises(ValueError, match=rf"epsilon1 = {epsilon1} must be at least 1.2e-38"):
        AdafactorConfig(epsilon1=epsilon1)
