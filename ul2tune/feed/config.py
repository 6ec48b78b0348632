"""The configuration of a feed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any

# The environment variable in which a `prepare` that a run starts finds its configuration, as JSON.
FEED = "UL2TUNE_FEED"
LAYOUTS = ("encoder_decoder", "prefix_lm", "causal_lm")
PACKINGS = ("balanced", "greedy", "none")
SEPARATORS = ("none", "eos")
# Fields that no batch depends on: where the data is, and how batches are made ready.
DELIVERY_FIELDS = frozenset({"data_dir", "num_workers", "prefetch_batches", "verify_checksums"})
# Fields on which the meaning of a saved position does not depend. Rows of another length make
# other batches, drawn from the same position.
POSITION_FREE_FIELDS = DELIVERY_FIELDS | {"feature_lengths"}
_MAX_ROW_TOKENS = 2**31 - 1  # of int32 positions


@dataclass(frozen=True, kw_only=True)
class FeedConfig:
    """Configuration of a :class:`ul2tune.feed.feed.Feed`.

    Attributes:
      mixture: name of a prepared mixture or task (``MIXTURE_OR_TASK_NAME``).
      data_dir: where `ul2tune prepare` wrote it.
      feature_lengths: tokens per row by SeqIO feature (``TASK_FEATURE_LENGTHS``). For the seven UL2
        denoisers with balanced packing take inputs : targets = 2 : 1, such as 1024/512 or
        2048/1024 (fills in `ul2tune.data.packing`).
      batch_size: rows of the global batch, over all hosts.
      split: SeqIO split.
      seed: of the shuffle, the mixing and the noise.
      layout: "encoder_decoder" (T5), "prefix_lm" (a decoder that sees the inputs in both
        directions) or "causal_lm". The last two concatenate inputs and targets in one row whose
        length is the sum of the feature lengths, as in SeqIO. If all denoisers are causal, rows
        hold the targets alone, as SeqIO's LM converter makes them: no EOS of inputs.
      packing: "balanced" fills both sides of a row from a window of pending draws; "greedy" packs
        in arrival order as SeqIO does; "none" puts one segment or example into a row as T5X does
        without packing (raw text as long as always fits, segment bounds below do not apply).
      window: pending draws per row ("balanced" only). Draws that fit badly wait longest, so the
        first segments of a run lack up to this many of them per row; the mixture's rates hold after
        some hundreds of batches.
      min_segment_tokens, max_segment_tokens: bounds of the raw text cut for one denoised segment.
        Shorter ones occur only where text ends: at the end of a finite pass, or of a document
        if segments may not cross.
      cross_documents: whether a segment of running text may continue in the next document, as in
        T5. False ends it at the document's end, so that nothing attends across documents; packed
        segments never attend to each other in either case. What a row has no room for then becomes
        the document's last segment, however short: with documents of 250 to 520 tokens, one segment
        in eight has fewer than 32.
      document_separator: what stands between concatenated documents: "none" (T5) or "eos".
      loss_on_inputs: prefix_lm and causal_lm: train on the inputs too.
      shuffle: whether documents come in a seeded order that changes every epoch, or as stored.
      num_epochs: passes over every task, after which the feed ends (padding rows complete the last
        batches; rows end at different times, so loops over several hosts take `None` and count
        steps, or use `eval_batches`). None repeats for ever.
      max_examples: use only the first so many documents or examples of each task.
      num_workers: processes that prepare batches; 0 does it in a thread of this process.
      prefetch_batches: finished batches kept ready per worker; 0 with no workers makes each batch
        when it is asked for.
      verify_checksums: read every shard once at the start and compare its SHA-256 with the
        manifest (sizes are always compared).
    """

    mixture: str
    data_dir: str
    feature_lengths: Mapping[str, int]
    batch_size: int
    split: str = "train"
    seed: int = 0
    layout: Annotated[str, LAYOUTS] = "encoder_decoder"
    packing: Annotated[str, PACKINGS] = "balanced"
    window: int = 32
    min_segment_tokens: int = 256
    max_segment_tokens: int = 512
    cross_documents: bool = True
    document_separator: Annotated[str, SEPARATORS] = "none"
    loss_on_inputs: bool = False
    shuffle: bool = True
    num_epochs: int | None = None
    max_examples: int | None = None
    num_workers: int = 0
    prefetch_batches: int = 2
    verify_checksums: bool = False

    def __post_init__(self):
        for name, known in (
            ("layout", LAYOUTS),
            ("packing", PACKINGS),
            ("document_separator", SEPARATORS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"FeedConfig.{name} is {getattr(self, name)!r}: use one of {', '.join(known)}."
                )
        for name in ("batch_size", "window", "min_segment_tokens", "num_epochs", "max_examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"FeedConfig.{name} is {value}: it must be at least 1.")
        for name in ("num_workers", "prefetch_batches"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"FeedConfig.{name} is {getattr(self, name)}: it must not be negative."
                )
        if self.max_segment_tokens < self.min_segment_tokens:
            raise ValueError(
                f"FeedConfig.max_segment_tokens is {self.max_segment_tokens}, less than "
                f"min_segment_tokens={self.min_segment_tokens}: raise the one or lower the other."
            )
        if self.loss_on_inputs and self.layout == "encoder_decoder":
            raise ValueError(
                "FeedConfig.loss_on_inputs is set, but an encoder-decoder has no loss on its "
                "inputs: use layout 'prefix_lm' or 'causal_lm', or leave it False."
            )
        self._check_lengths()

    def _check_lengths(self):
        needed = {"targets"} if self.layout == "causal_lm" else {"inputs", "targets"}
        known = {"inputs", "targets"}
        lengths = dict(self.feature_lengths)
        if not needed <= lengths.keys() <= known or min(lengths.values()) < 1:
            raise ValueError(
                f"TASK_FEATURE_LENGTHS is {lengths}: layout {self.layout!r} needs positive lengths "
                f"for {', '.join(sorted(needed))}"
                + (" (and takes inputs for tasks that have them)." if needed != known else ".")
            )
        if sum(lengths.values()) > _MAX_ROW_TOKENS:
            raise ValueError(
                f"TASK_FEATURE_LENGTHS is {lengths}: a row holds at most {_MAX_ROW_TOKENS:,} "
                "tokens, as their positions have 32 bits. Lower the lengths."
            )

    @property
    def inputs_length(self) -> int:
        return self.feature_lengths.get("inputs", 0)

    @property
    def targets_length(self) -> int:
        return self.feature_lengths["targets"]

    @property
    def two_sided(self) -> bool:
        """Whether inputs and targets fill two separate rows (encoder and decoder)."""
        return self.layout == "encoder_decoder"

    @property
    def row_lengths(self) -> tuple[int, int]:
        """Room of an empty row on its two sides; a one-sided row has only the first."""
        if self.two_sided:
            return self.inputs_length, self.targets_length
        return self.inputs_length + self.targets_length, 0


def fields_at_default(config: Any) -> frozenset[str]:
    """Names of the fields of a dataclass that are as if nobody had set them."""
    return frozenset(f.name for f in fields(config) if getattr(config, f.name) == _default(f))


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
