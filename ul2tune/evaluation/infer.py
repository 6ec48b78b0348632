"""`infer`: prompts in, generations out, one JSON line each, in the order of the prompts.

Resumable: a line is on disk as soon as those before it are, a rerun checks that they belong to the
same prompts, parameters and settings and goes on after the last whole one. A line is never lost,
repeated or torn. Of several processes the first reads and writes the output; all read the prompts.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

from ul2tune import compilation_cache, sharding
from ul2tune.checkpoints import agreement, description, initialize, layout
from ul2tune.checkpoints.vocabulary import check as check_vocabulary
from ul2tune.data.vocab import Vocabulary
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import batching, infer_output, layouts, prompts
from ul2tune.evaluation.predictor import (
    OnDone,
    Predictor,
    length_buckets,
    load_params,
    padded_prompt,
)
from ul2tune.evaluation.prompts import Prompt
from ul2tune.evaluation.tokens import stop_token, until
from ul2tune.models import base
from ul2tune.models.base import ModelConfig
from ul2tune.models.decoder import DecoderConfig
from ul2tune.signal_handlers import interrupts
from ul2tune.status_line import Progress

# A prompt of a rare length waits for others of its own while up to so many batches' worth of
# prompts are read. Answers to these cannot be written before its own, so that is also what a kill
# repeats at most. 16 would leave batches clearly emptier (tests/evaluation/test_batching.py).
WINDOW_BATCHES = 32
# Fields of a model's configuration that change no answer but for rounding, as the batch size.
_WITHOUT_EFFECT = base.FREE_FIELDS - {"dtype"}


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """How prompts are answered.

    Attributes:
      sampling: how to generate.
      inputs_length: longer prompts are cut from the right, and marked; they keep their end of
        sequence, also where the tasks trained on lost it at the length (`append_eos`).
      batch_size: prompts per step; changes speed, and results only as far as rounding in the
        model's dtype does (NUMERICS in `predictor`).
      append_eos: end prompts with the end of sequence, as the tasks trained on did
        (`splits.prompts_end_with_eos`).
      special_tokens: ``<extra_id_0>`` and ``[S]`` in a prompt mean the reserved ids; off, they are
        text.
      layout: for models that read several (decoder-only ones), the one they were trained with, as
        `FeedConfig.layout`: "prefix_lm" or "causal_lm". None = what the checkpoint says.
      ema: use the average of the parameters that the run kept (`RunConfig.ema_decay`).
      allow_other_vocabulary: use a checkpoint that was trained with another vocabulary.
      input_format: "jsonl", "text", or None to see for itself, see `prompts.read`.
      stop: a special or added token (``<|im_end|>``) that ends answers beside the end of sequence,
        and is no part of them; None = nothing else does.
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    inputs_length: int = 512
    batch_size: int = 32
    append_eos: bool = True
    special_tokens: bool = False
    layout: str | None = None
    ema: bool = False
    allow_other_vocabulary: bool = False
    input_format: Annotated[str, prompts.FORMATS] | None = None
    stop: str | None = None

    def __post_init__(self) -> None:
        for name in ("inputs_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"InferConfig.{name} must be positive, got {getattr(self, name)}.")

    @property
    def buckets(self) -> tuple[int, ...]:
        """The padded lengths of prompts."""
        return length_buckets(self.inputs_length)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt as the model reads it: its tokens, and whether they were cut."""

    prompt: Prompt
    ids_S: np.ndarray
    truncated: bool


def infer(
    model: ModelConfig,
    vocabulary: Vocabulary,
    checkpoint_path: str,
    mesh: sharding.MeshConfig,
    input_path: str,
    output_path: str,
    infer: InferConfig,
    compilation_cache_dir: str | None = None,
) -> int:
    """Answers prompts with a checkpoint.

    Args:
      model: configuration of the model.
      vocabulary: the one the model was trained with: `ul2tune.data.vocab.load(…)`, or
        `ul2tune.evaluation.splits.vocabulary_of(mixture, data_dir)`.
      checkpoint_path: MODEL_DIR (its newest checkpoint) or one step's folder.
      mesh: devices.
      input_path: prompts, see `prompts.read`; ``"-"`` = standard input.
      output_path: JSON lines in a file, not a stream; continued if it exists.
        ``<output_path>.settings.json`` beside it holds what determined them.
      infer: how.
      compilation_cache_dir: as `RunConfig.compilation_cache_dir`.

    Returns:
      Number of answers written by this call.

    Raises:
      ValueError: on a prompt that is malformed or that the model cannot continue (with file and
        line), if there is none, if `InferConfig.stop` is no token, if the output is no file, or if
        it exists and was made from other prompts or settings, or not by this function.
    """
    compilation_cache.use(compilation_cache_dir)
    with agreement.together():
        infer_output.check_paths(input_path, Path(output_path))
        stop_token(vocabulary, infer.stop)
    step_dir = initialize.resolve(checkpoint_path)
    with agreement.together():
        trained = layouts.of_checkpoint(model, infer.layout, step_dir)
        infer = dataclasses.replace(infer, layout=trained)
        total, digest = _checked(input_path, model, vocabulary, infer)
    device_mesh = sharding.make_mesh(mesh)
    with agreement.together():
        check_vocabulary(
            step_dir,
            vocabulary,
            allow=infer.allow_other_vocabulary,
            setting="InferConfig.allow_other_vocabulary",
        )
        settings = _settings(model, vocabulary, step_dir, infer)
        asked = _read(input_path, model, vocabulary, infer)
        # The first prompt is read now, so that an empty standard input is refused before the
        # model is loaded.
        asked = itertools.chain([next(asked)], asked)
    output, first = Path(output_path), jax.process_index() == 0
    with contextlib.ExitStack() as held:
        num_done = _agreed_start(output, settings, asked, digest, held)
        progress = Progress("infer", total, "prompts", enabled=first, done=num_done)
        held.enter_context(interrupts())
        params = load_params(model, device_mesh, step_dir, ema=infer.ema)
        initialize.warn_of_other_model(step_dir, model)
        predictor = _predictor(model, params, device_mesh, vocabulary, infer)
        written = 0
        for lines in _answers(predictor, model, vocabulary, asked, infer, progress.advance):
            if first:
                infer_output.append(output, lines)
            written += len(lines)
        progress.close()
    return written


def _predictor(
    model: ModelConfig,
    params: Any,
    mesh: jax.sharding.Mesh,
    vocabulary: Vocabulary,
    infer: InferConfig,
) -> Predictor:
    return Predictor(
        model,
        params,
        mesh,
        info=vocabulary.info,
        num_ids=vocabulary.size,
        batch_size=infer.batch_size,
        length_buckets=infer.buckets,
        layout=infer.layout,
    )


def _answers(
    predictor: Predictor,
    model: ModelConfig,
    vocabulary: Vocabulary,
    asked: Iterator[Prompt],
    infer: InferConfig,
    on_done: OnDone,
) -> Iterator[list[dict[str, Any]]]:
    """The output lines in the order of the prompts, as soon as those before them are there."""

    def numbered(batch: Sequence[tuple[int, Question]]) -> Iterator[tuple[int, dict[str, Any]]]:
        numbers, questions = zip(*batch)
        return zip(numbers, answer(predictor, vocabulary, questions, infer, on_done), strict=True)

    batches = batching.by_size(
        (encode(prompt, model, vocabulary, infer) for prompt in asked),
        lambda question: bisect.bisect_left(infer.buckets, len(question.ids_S)),
        batch_size=predictor.batch_size,
        window=predictor.batch_size * WINDOW_BATCHES,
    )
    return batching.in_order(numbered(batch) for batch in batches)


def encode(
    prompt: Prompt, model: ModelConfig, vocabulary: Vocabulary, infer: InferConfig
) -> Question:
    """The tokens of a prompt, cut to the inputs length. A decoder-only model reads its `start_id`
    before them anyway: a prompt that begins with it, as chat templates write it, has it once."""
    end = [vocabulary.info.eos_id] if infer.append_eos else []
    body = vocabulary.encode(prompt.text, specials=infer.special_tokens)
    if isinstance(model, DecoderConfig) and body[:1] in ([vocabulary.bos_id], [model.start_id]):
        # Ids of text are no start: where `start_id` is 0, that may be "!".
        is_text = vocabulary.encode(prompt.text)[:1] == body[:1]
        body = body if is_text else body[1:]
    room = infer.inputs_length - len(end)
    ids_S = np.array(body[:room] + end, np.int32)
    return Question(prompt=prompt, ids_S=ids_S, truncated=len(body) > room)


def answer(
    predictor: Predictor,
    vocabulary: Vocabulary,
    asked: Sequence[Question],
    infer: InferConfig,
    on_done: OnDone,
) -> list[dict[str, Any]]:
    """The output lines of some prompts."""
    stop_id = stop_token(vocabulary, infer.stop)
    tokens = predictor.generate(
        [question.ids_S for question in asked],
        [question.prompt.id for question in asked],
        infer.sampling,
        on_done,
        stops=[stop_id] * len(asked),
    )
    return [
        {
            **infer_output.names(question.prompt),
            "truncated": question.truncated,
            "prediction": vocabulary.decode(until(ids.tolist(), stop_id)).strip(),
            "finished": not {vocabulary.info.eos_id, stop_id}.isdisjoint(ids.tolist()),
        }
        for question, ids in zip(asked, tokens, strict=True)
    ]


def _read(
    input_path: str, model: ModelConfig, vocabulary: Vocabulary, infer: InferConfig
) -> Iterator[Prompt]:
    """The prompts; one that cannot be continued is a ValueError with its line."""
    name = "stdin" if input_path == prompts.STDIN else input_path
    layout, room = layouts.choose(model, infer.layout), infer.sampling.max_decode_length
    may_be_empty = layout == layouts.ENCODER_DECODER and not infer.append_eos
    may_be_long = layouts.why_too_long(model, infer.buckets[-1], room)
    for prompt in prompts.read(input_path, infer.input_format):
        if may_be_empty or may_be_long:
            ids_S = encode(prompt, model, vocabulary, infer).ids_S
            what = f"{name}:{prompt.line}: prompt {prompt.id!r}"
            layouts.check_prompt(layout, ids_S, what)
            layouts.check_row(model, padded_prompt(len(ids_S), infer.buckets), room, what)
        yield prompt


def _checked(
    input_path: str, model: ModelConfig, vocabulary: Vocabulary, infer: InferConfig
) -> tuple[int | None, str]:
    """Number and hash of the prompts, read whole: a mistake on the last line should not cost a
    night of work before it. Standard input can be read but once: its number is None."""
    total, digest = 0, hashlib.sha256()
    if input_path == prompts.STDIN:
        if jax.process_count() > 1:
            raise ValueError("Standard input reaches one process only; use a file of prompts.")
        return None, digest.hexdigest()
    for prompt in _read(input_path, model, vocabulary, infer):
        digest.update(repr(prompt).encode())
        total += 1
    return total, digest.hexdigest()


def _settings(
    model: ModelConfig, vocabulary: Vocabulary, step_dir: Path, infer: InferConfig
) -> dict[str, Any]:
    """What an answer depends on, beside its prompt, as JSON; the batch size is not among it, nor is
    how the model is computed.

    `checkpoint` is for people: a run trained again at the same place and step has other
    `parameters`, a copy elsewhere the same.
    """
    values = dataclasses.asdict(infer)
    for name in ("batch_size", "input_format", "allow_other_vocabulary"):
        del values[name]  # the prompts themselves are compared
    kinds = ("params/", "ema/") if infer.ema else ("params/",)
    leaves = layout.read_meta(step_dir)["leaves"]
    parameters = {path: leaf for path, leaf in leaves.items() if path.startswith(kinds)}
    facts = {
        "checkpoint": str(step_dir),
        "parameters": _short_hash(json.dumps(parameters, sort_keys=True)),
        "vocabulary": vocabulary.fingerprint,
    }
    described = description.describe(model)
    fields = {f"model.{name}": described[name] for name in described.keys() - _WITHOUT_EFFECT}
    return facts | fields | values


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _agreed_start(
    output: Path,
    settings: dict[str, Any],
    asked: Iterator[Prompt],
    digest: str,
    held: contextlib.ExitStack,
) -> int:
    """The number of answers that are there, as the first process says, and skips their prompts.

    Collective. `digest` is of the prompts, which must be the same everywhere; `held` closes what
    keeps others from the output.
    """
    start = lambda: infer_output.start(output, settings, asked, held)  # noqa: E731
    num_done, expected = agreement.from_first(lambda: (start(), digest))
    with agreement.together():
        if digest != expected:
            raise ValueError("The processes have different prompts: give all the same file.")
    if jax.process_index() != 0:
        next(itertools.islice(asked, num_done, num_done), None)
    return num_done
