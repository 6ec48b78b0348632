"""Our T5 as a model of T5X, so that ``python -m t5x.train`` trains it on our tasks.

T5X sees parameters under its own names and in its own shapes; they are put together to ours in
every step. So its checkpoints are those of its own T5: it starts from released ones, what it writes
can be read by its own `examples/t5` and by ``ul2tune import t5x``, and its Adafactor factors as
ever. What that costs is one copy of the parameters per step.

Needs a checkout of T5X on PYTHONPATH: docs/t5x.md. Axes: B batch, L target length, V vocabulary.
"""

# pyright: reportAttributeAccessIssue=false
# (it takes the package `t5x` for this file)

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import seqio
from flax.linen.partitioning import AxisMetadata
from t5x import decoding, losses, models

from ul2tune import tree
from ul2tune.convert.t5x import names
from ul2tune.models import base
from ul2tune.models.t5 import T5Config
from ul2tune.types import Batch, Tree

_TARGET = names.TARGET


class EncoderDecoderModel(models.BaseTransformerModel):
    """T5X's interface to a T5 of ours.

    Batches, losses, metrics and decoding functions are T5X's own.
    """

    FEATURE_CONVERTER_CLS = seqio.EncDecFeatureConverter

    def __init__(
        self,
        config: T5Config,
        mixture: str,
        optimizer_def: Any,
        modules: Sequence[str] = (),
        layout: str | None = None,
        decode_fn: Callable[..., Any] = decoding.beam_search,
        **loss: Any,
    ):
        """Makes the model; its vocabularies are those of the mixture.

        Args:
          config: our configuration of it.
          mixture: name of the SeqIO task or mixture to train on.
          optimizer_def: T5X's optimiser.
          modules: modules that register the mixture.
          layout: "plain" or "scanned", as T5X's own models would store it; default: scanned where
            layers have relative biases of their own (umT5), else plain.
          decode_fn: T5X's `beam_search` or `temperature_sample`.
          **loss: T5X's `label_smoothing`, `z_loss`, `loss_normalizing_factor`.

        Raises:
          ValueError: for a model or a layout that T5X's names do not reach.
        """
        if not isinstance(config, T5Config):
            raise ValueError(
                f"MODEL = {type(config).__name__} is not of the T5 family, the only one that T5X "
                f"has names for."
            )
        layout = layout or ("scanned" if config.per_layer_relative_bias else "plain")
        if layout not in names.LAYOUTS or (
            config.per_layer_relative_bias is not (layout == "scanned")
        ):
            raise ValueError(
                f"layout = {layout!r} with per_layer_relative_bias = "
                f"{config.per_layer_relative_bias}: T5X has shared biases in the layout 'plain' "
                f"and one per layer in 'scanned'."
            )
        for module in modules:
            importlib.import_module(module)
        features = seqio.get_mixture_or_task(mixture).output_features
        self.config, self._weights = config, names.weights(config, names.LAYOUTS[layout])
        self._leaves = [weight.leaf() for weight in self._weights]
        super().__init__(
            module=None,  # type: ignore[arg-type]  # only T5X's own subclasses use it
            input_vocabulary=features["inputs"].vocabulary,
            output_vocabulary=features["targets"].vocabulary,
            optimizer_def=optimizer_def,
            decode_fn=decode_fn,
            **loss,
        )

    def get_initial_variables(
        self,
        rng: jax.Array,
        input_shapes: Mapping[str, Any],
        input_types: Mapping[str, Any] | None = None,
    ) -> Any:
        """Initial parameters, and the logical axes by which T5X partitions and factors them."""
        del input_shapes, input_types  # parameters do not depend on the batch
        params = self.to_theirs(base.init_params(self.config, rng))
        axes = {
            f"{name}_axes": AxisMetadata(names=tuple(map(_logical, weight.their_axes)))
            for weight in self._weights
            for name in weight.names
        }
        return flax.core.freeze({"params": params, "params_axes": tree.unflatten(axes)})

    def to_theirs(self, params: Tree) -> Tree:
        """Our parameters under T5X's names; usable inside JAX transformations."""
        flat, theirs = tree.flatten(params), {}
        for leaf in self._leaves:
            array = flat[leaf.path]
            for n, name in enumerate(leaf.names):
                theirs[name.removeprefix(_TARGET)] = leaf.to_theirs(
                    array[n] if leaf.stacked else array
                )
        return tree.unflatten(theirs)

    def to_ours(self, params: Tree) -> Tree:
        """The inverse of :meth:`to_theirs`."""
        flat, ours = tree.flatten(flax.core.unfreeze(params)), {}
        for leaf in self._leaves:
            parts = [leaf.to_ours(flat[name.removeprefix(_TARGET)]) for name in leaf.names]
            ours[leaf.path] = jnp.stack(parts) if leaf.stacked else parts[0]
        return tree.unflatten(ours)

    def _compute_logits(
        self,
        params: Tree,
        batch: Batch,
        dropout_rng: jax.Array | None = None,
        mutable: Any = False,
        other_variables: Any = None,
    ) -> jax.Array:
        """Float32 logits [B, L, V]."""
        assert not mutable, "no variables but parameters"
        assert not other_variables, "no variables but parameters"
        model = base.bind(self.config, self.to_ours(params))
        return model.logits(batch, dropout_key=dropout_rng)

    def score_batch(
        self, params: Tree, batch: Batch, return_intermediates: bool = False
    ) -> jax.Array:
        """Log-likelihood of every row's targets, [B]."""
        if return_intermediates:
            raise ValueError("Our models record no intermediates; score without them.")
        logits_BLV = self._compute_logits(params, batch)
        token_scores_BL = -losses.cross_entropy_with_logits(
            logits_BLV,
            jax.nn.one_hot(batch["decoder_target_tokens"], logits_BLV.shape[-1]),
            z_loss=0.0,
        )[0]
        return jnp.sum(token_scores_BL * batch["decoder_loss_weights"], axis=-1)

    def predict_batch_with_aux(
        self,
        params: Tree,
        batch: Batch,
        rng: jax.Array | None = None,
        decoder_params: Mapping[str, Any] | None = None,
        num_decodes: int = 1,
        return_all_decodes: bool = False,
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """Generates as many tokens as the targets are long.

        Returns:
          Tokens [B, L], or [B, decodes, L] from worst to best, and ``{"scores": …}``.
        """
        model = base.bind(self.config, self.to_ours(params))
        inputs_BL = jnp.zeros_like(batch["decoder_input_tokens"])  # nothing is forced
        cache = model.start_decoding(batch, max_decode_length=inputs_BL.shape[1])

        def step(state: decoding.DecodingState) -> tuple[jax.Array, Mapping[str, jax.Array]]:
            # A row per decode; those of a prompt lie side by side and share its source.
            now = dataclasses.replace(cache, **state.cache)
            # One number in beam search, one per row (all equal) in sampling.
            index = jnp.ravel(state.cur_index)[0]
            logits_BV, now = model.decode_step(now, state.cur_token[:, 0], index)
            return logits_BV, {"self_key": now.self_key, "self_value": now.self_value}

        options = {"eos_id": self.output_vocabulary.eos_id or 1, **(decoder_params or {})}
        if rng is not None:
            options["decode_rng"] = rng
        decodes, scores = self._decode_fn(
            inputs=inputs_BL,
            cache={"self_key": cache.self_key, "self_value": cache.self_value},
            tokens_to_logits=step,
            num_decodes=num_decodes,
            cache_offset=1,  # the batch is the second axis
            **options,
        )
        if return_all_decodes:
            return decodes, {"scores": scores}
        return decodes[:, -1], {"scores": scores[:, -1]}


def _logical(axis: str) -> str:
    return "joined_kv" if axis == "heads*kv" else axis
