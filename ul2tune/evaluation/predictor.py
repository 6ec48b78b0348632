"""A model on a mesh that answers prompts: batching, padding and compiling around `decoding`.

Rows are independent of each other: a prompt is padded to a length that depends on its own length
alone, as is a target, and its randomness is keyed by its name. So the answers do not depend on what
else is asked, on the batch size or on the number of devices, up to the rounding of the model's
dtype.

NUMERICS: matrix products add up in an order that depends on their shape, so on the batch size, and
over a mesh's `tensor` axis in parts that are rounded each. In float32 that is 1e-6 of a log-
likelihood and decides next to nothing. In bfloat16 it can decide a near tie, and a generation goes
on from there. Programs are compiled with `xla_allow_excess_precision` off: XLA would otherwise keep
some intermediates in float32, others for other batch sizes, which moves log-likelihoods by 1e-2
instead of 1e-4. Where answers must not move at all, evaluate with the model's `dtype` = 'float32'
(a checkpoint's parameters are float32 anyway).

Axis legend: B batch, P prompts, S input length, L target length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ul2tune import sharding, tree
from ul2tune.checkpoints import initialize
from ul2tune.data.vocab_info import VocabInfo
from ul2tune.decoding.generate import generate
from ul2tune.decoding.interface import Generated, Rules
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.decoding.score import Scores, score
from ul2tune.evaluation import layouts
from ul2tune.instructions.records import stable_hash
from ul2tune.models import base
from ul2tune.signal_handlers import raise_ignored_interrupt
from ul2tune.types import Tree

# See NUMERICS above.
_COMPILER_OPTIONS = {"xla_allow_excess_precision": False}
# An encoder-decoder scores at most so many targets per encoding of their prompt. Numbers of targets
# are powers of two, as each is a program to compile.
_MAX_PER_PROMPT = 8
_NOTHING = np.zeros(0, np.int32)
# Called with a number of finished examples.
OnDone = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class LogLikelihood:
    """Of one target given its prompt: summed over tokens, in nats, how many tokens, and of each."""

    sum: float
    num_tokens: int
    tokens: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Per token: the length-normalised score."""
        return self.sum / max(self.num_tokens, 1)

    def minus(self, prior: LogLikelihood) -> LogLikelihood:
        """Less that of the same target given another prompt: pointwise mutual information."""
        assert self.num_tokens == prior.num_tokens, "two different targets"
        tokens = tuple(a - b for a, b in zip(self.tokens, prior.tokens, strict=True))
        return LogLikelihood(sum=self.sum - prior.sum, num_tokens=self.num_tokens, tokens=tokens)


class Predictor:
    """Generates and scores in sharded batches.

    Args:
      model: configuration of the model.
      params: its parameters, on the mesh; may be replaced between calls by those of a later step.
      mesh: the batch is split over its data and fsdp axes.
      info: reserved ids of the vocabulary.
      num_ids: size of the vocabulary; must not exceed the model's rows.
      batch_size: rows per step, at most; rounded up to a multiple of the mesh's data-parallel size.
      length_buckets: padded input lengths, ascending; the last is the longest allowed.
      layout: how prompts and targets are laid out, see `layouts.choose`.

    Raises:
      ValueError: if vocabulary or layout are not the model's.
    """

    def __init__(
        self,
        model: base.ModelConfig,
        params: Tree,
        mesh: jax.sharding.Mesh,
        *,
        info: VocabInfo,
        num_ids: int,
        batch_size: int,
        length_buckets: Sequence[int],
        layout: str | None = None,
    ):
        self.layout = choose_layout(model, layout, info, num_ids)
        self._model, self._mesh, self._info, self._num_ids = model, mesh, info, num_ids
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        self._ways = ways
        self.batch_size = -(-batch_size // ways) * ways
        self._buckets = tuple(length_buckets)
        self.params = params
        options = _COMPILER_OPTIONS | base.compiler_options(model)
        self._generate = jax.jit(
            self._generate_batch,
            static_argnames="sampling",
            out_shardings=sharding.replicated(mesh),
            compiler_options=options,
        )
        self._score = jax.jit(
            self._score_batch,
            out_shardings=sharding.replicated(mesh),
            compiler_options=options,
        )

    def generate(
        self,
        inputs: Sequence[np.ndarray],
        names: Sequence[str],
        sampling: SamplingConfig,
        on_done: OnDone = lambda count: None,
        *,
        stops: Sequence[int | None] | None = None,
    ) -> list[np.ndarray]:
        """Continues every prompt.

        Args:
          inputs: int32 ids per prompt.
          names: of the prompts; different names draw differently.
          sampling: how.
          on_done: told about finished prompts.
          stops: an id per prompt that ends its answer, beside the end of sequence; None = nothing
            else does.

        Returns:
          int32 ids per prompt, end of sequence (or stop) and padding included.

        Raises:
          ValueError: if an encoder would read nothing, or if the model's logits are not finite: no
            answer follows from them. Names the prompt.
        """
        for name, ids in zip(names, inputs, strict=True):
            layouts.check_prompt(self.layout, ids, f"Prompt {name!r}")
        results: list[Any] = [None] * len(inputs)
        eos_id = self._info.eos_id
        ends = np.array([eos_id if s is None else s for s in stops or [None] * len(inputs)])
        halves = _halves([stable_hash(name) for name in names])
        lengths = [padded_prompt(len(ids), self._buckets) for ids in inputs]
        for length, chosen in _batches(lengths, lambda _: self.batch_size):
            raise_ignored_interrupt()
            batch = {
                **layouts.prompts(
                    self.layout, [inputs[i] for i in chosen], self.batch_size, length
                ),
                "names": np.pad(halves[chosen], ((0, self.batch_size - len(chosen)), (0, 0))),
                "stops": np.resize(ends[chosen], self.batch_size).astype(np.int32),
            }
            with jax.set_mesh(self._mesh):
                written = self._generate(self.params, self._place(batch), sampling=sampling)
            written = jax.device_get(written)
            _check_finite(written, [names[i] for i in chosen])
            for index, tokens_L in zip(chosen, written.tokens_BL):
                results[index] = tokens_L
            on_done(len(chosen))
        return results

    def score(
        self,
        inputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        on_done: OnDone = lambda count: None,
    ) -> list[LogLikelihood]:
        """Log-likelihood of every target given its prompt.

        An encoder-decoder encodes a prompt once for up to 8 of its targets, those of one padded
        length: a batch has parts of k targets, each with a prompt.
        """
        results: list[Any] = [None] * len(inputs)
        sizes = [
            (padded_prompt(len(source), self._buckets), padded_target(len(target)))
            for source, target in zip(inputs, targets, strict=True)
        ]
        prompts = [np.asarray(source, np.int32).tobytes() for source in inputs]
        parts = _parts(list(zip(sizes, prompts)), self._most_per_prompt())
        shapes = [(sizes[part[0]], _power_of_two(len(part))) for part in parts]
        for (lengths, k), chosen in _batches(shapes, lambda shape: self._num_prompts(shape[-1])):
            raise_ignored_interrupt()
            # None: a row without target.
            rows = [i for n in chosen for i in [*parts[n], *[None] * (k - len(parts[n]))]]
            batch = layouts.pairs(
                self.layout,
                [inputs[parts[n][0]] for n in chosen for _ in range(k)],
                [_NOTHING if i is None else targets[i] for i in rows],
                self._num_prompts(k) * k,
                lengths,
                k,
            )
            counts_BL = batch["decoder_loss_weights"] != 0
            with jax.set_mesh(self._mesh):
                scores = jax.device_get(self._score(self.params, self._place(batch)))
            for row, index in enumerate(rows):
                if index is not None:
                    results[index] = _log_likelihood(scores, row, counts_BL[row])
            on_done(sum(len(parts[n]) for n in chosen))
        return results

    @property
    def num_compiled(self) -> int:
        """Programs compiled so far: one that generates per input length met, and one that scores
        per input length, target length and number of targets per prompt.
        """
        programs: list[Any] = [self._generate, self._score]
        return sum(program._cache_size() for program in programs)

    def _generate_batch(
        self, params: Tree, batch: Mapping[str, jax.Array], sampling: SamplingConfig
    ) -> Generated:
        rules = Rules(
            num_ids=self._num_ids,
            eos_id=self._info.eos_id,
            pad_id=self._info.pad_id,
            stops_B=batch["stops"],
        )
        with base.matmul_precision(self._model):
            return generate(
                base.bind(self._model, base.in_compute_dtype(self._model, params)),
                {name: x for name, x in batch.items() if name not in ("names", "stops")},
                sampling,
                rules,
                batch["names"],
            )

    def _score_batch(self, params: Tree, batch: Mapping[str, jax.Array]):
        with base.matmul_precision(self._model):
            return score(base.bind(self._model, params), batch)

    def _most_per_prompt(self) -> int:
        """Targets that share an encoding of their prompt; never more rows than `batch_size`."""
        if self.layout != layouts.ENCODER_DECODER:
            return 1
        rows_per_device = self.batch_size // self._ways
        return min(_MAX_PER_PROMPT, 1 << (rows_per_device.bit_length() - 1))

    def _num_prompts(self, per_prompt: int) -> int:
        """Prompts of a batch: as many for each device, which has all of their targets, too."""
        return self.batch_size // (per_prompt * self._ways) * self._ways

    def _place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        # Every process holds the whole batch and hands its devices their rows.
        placed = {}
        for name, value in batch.items():
            rows = list(sharding.local_rows(self._mesh, len(value)))
            placed |= sharding.to_global({name: value[rows]}, self._mesh, len(value))
        return placed


def choose_layout(
    model: base.ModelConfig, layout: str | None, info: VocabInfo, num_ids: int
) -> str:
    """The layout in which a model is asked in a vocabulary, see `layouts.choose`.

    Raises:
      ValueError: if vocabulary or layout are not the model's.
    """
    if num_ids > model.vocab_size:
        raise ValueError(
            f"The data's vocabulary has {num_ids} ids but the model {model.vocab_size} rows: "
            f"they do not belong together. Set the model's vocab_size to at least {num_ids}."
        )
    chosen = layouts.choose(model, layout)
    if chosen == layouts.ENCODER_DECODER and info.zero_is_text:
        raise ValueError(
            f"Id 0 is text in this vocabulary (padding is {info.pad_id}), but encoder-decoders "
            f"take it for padding when they decode: use a vocabulary with padding 0."
        )
    return chosen


def _parts(keys: Sequence[Any], most: int) -> list[list[int]]:
    """Indices of equal keys, at most so many together.

    >>> _parts("abaaba", 2)
    [[0, 2], [3, 5], [1, 4]]
    """
    groups: dict[Any, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return [
        group[start : start + most]
        for group in groups.values()
        for start in range(0, len(group), most)
    ]


def _batches(sizes: Sequence[Any], most: Callable[[Any], int]) -> Iterator[tuple[Any, list[int]]]:
    """Indices of equal size, at most `most(size)` at a time, in their order."""
    for size in sorted(set(sizes)):
        indices = [i for i, other in enumerate(sizes) if other == size]
        for start in range(0, len(indices), most(size)):
            yield size, indices[start : start + most(size)]


def length_buckets(longest: int) -> tuple[int, ...]:
    """Powers of two from 64 on, up to and including `longest`: few programs to compile."""
    buckets, length = [], 64
    while length < longest:
        buckets.append(length)
        length *= 2
    return (*buckets, longest)


def padded_prompt(length: int, buckets: Sequence[int]) -> int:
    """What a prompt of so many tokens is padded to.

    Raises:
      ValueError: if it is longer than the last bucket.
    """
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise ValueError(
        f"A prompt has {length} tokens, more than the longest bucket {buckets[-1]}. Raise the "
        f"inputs length or shorten the prompt."
    )


def padded_target(length: int) -> int:
    """What a target that is scored is padded to: 4, 8, 16, …"""
    return max(4, _power_of_two(length))


def load_params(
    model: base.ModelConfig, mesh: jax.sharding.Mesh, step_dir: Path, *, ema: bool
) -> Tree:
    """The parameters of a checkpoint, or their average, sharded, to be used and not trained.

    Matrices are in the compute dtype, in which every product reads them. In bfloat16 they take half
    of float32's memory; XLA for CPU, which has no bfloat16 products, widens them in its loops.
    """
    abstract = abstract_sharded_params(model, mesh)
    params = initialize.load_params(step_dir, abstract, ema=ema)
    narrow = {}
    for path, wide in tree.flatten(params).items():
        narrow |= tree.flatten(base.in_compute_dtype(model, tree.unflatten({path: wide})))
        if narrow[path].dtype != wide.dtype:
            wide.delete()  # never both of all
    return tree.unflatten(narrow)


def abstract_sharded_params(model: base.ModelConfig, mesh: jax.sharding.Mesh) -> Tree:
    """The abstract parameters of a model, sharded over a mesh: what a checkpoint restores into."""
    abstract = base.abstract_params(model)
    shardings = sharding.param_shardings(abstract, base.param_axes(model), mesh)
    return sharding.with_shardings(abstract, shardings)


def _check_finite(written: Generated, names: Sequence[str]) -> None:
    # All processes have all rows, so all of them stop.
    for name, finite in zip(names, written.finite_B):
        if not finite:
            raise ValueError(
                f"The next-token logits of the answer to {name!r} are not finite: the checkpoint's "
                f"parameters are not finite, or too large for the model's dtype. Try an earlier "
                f"step."
            )


def _log_likelihood(scores: Scores, row: int, counts_L: np.ndarray) -> LogLikelihood:
    return LogLikelihood(
        sum=float(scores.sum_B[row]),
        num_tokens=int(scores.length_B[row]),
        tokens=tuple(scores.tokens_BL[row, counts_L].tolist()),
    )


def _power_of_two(number: int) -> int:
    """The smallest that is not less."""
    return 1 << (number - 1).bit_length() if number > 1 else 1


def _halves(hashes: Sequence[int]) -> np.ndarray:
    """uint32 [N, 2]: high and low half of 64-bit hashes."""
    values = np.array(hashes, np.uint64)
    return np.stack([values >> np.uint64(32), values & np.uint64(0xFFFFFFFF)], 1).astype(np.uint32)
