"""SeqIO sources whose elements Python makes; among them documents, split by hash."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import seqio

from ul2tune.data.documents import Corpus, Rejections, split_of
from ul2tune.prepare.runtime import tf

SPLITS = ("train", "validation")


class PythonSource(seqio.DataSource):
    """Elements that `_elements` of a subclass yields, in any number of shards.

    Args:
      splits: names of the splits.
      signature: `tf.TensorSpec` of each key of an element.

    Attributes:
      is_text: whether all values are strings or lists of strings.
      failure: what stopped the last reading; TensorFlow hides it in a long message of its own.
    """

    def __init__(self, splits: Sequence[str], signature: Mapping[str, tf.TensorSpec]):
        super().__init__(splits=tuple(splits))
        self._signature = dict(signature)
        self.is_text = all(spec.dtype == tf.string for spec in signature.values())
        self.failure: Exception | None = None

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def _elements(self, split: str, shard: int, num_shards: int) -> Iterator[dict[str, Any]]:
        """The elements of one shard; the shards of any `num_shards` partition the split."""
        raise NotImplementedError

    def read(self, split: str, shard: int = 0, num_shards: int = 1) -> Iterator[dict[str, Any]]:
        """The elements without TensorFlow.

        Raises:
          ValueError: if the files behind them are malformed.
        """
        self.failure = None
        try:
            yield from self._elements(split, shard, num_shards)
        except Exception as error:
            self.failure = error
            raise

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused,
    ) -> tf.data.Dataset:
        """One pass in order; `shuffle` is left to the task's shuffle buffer."""
        if split not in self.splits:
            raise ValueError(f"No split {split!r}; there are {tuple(self.splits)}.")
        shard, num_shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
        return tf.data.Dataset.from_generator(
            lambda: self.read(split, shard, num_shards), output_signature=self._signature
        )


class DocumentSource(PythonSource):
    """Elements ``{"text", "id"}`` in the corpus's order.

    Which split a document falls into depends on its text alone, so adding files or reordering them
    moves no document across.

    Args:
      corpus: the documents.
      validation_fraction: about this share of the documents is the validation split; 0 makes it
        empty.

    Attributes:
      corpus, validation_fraction: the arguments.
      rejections: what was read and rejected so far, over all calls; see `counting`.
    """

    def __init__(self, corpus: Corpus, validation_fraction: float = 0.02):
        text = tf.TensorSpec([], tf.string)
        super().__init__(SPLITS, {"text": text, "id": text})
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {validation_fraction}.")
        self.corpus, self.validation_fraction = corpus, validation_fraction
        self.rejections = Rejections()

    def counting(self, rejections: Rejections) -> DocumentSource:
        """The same source with counts and a failure of its own, whatever else reads beside it."""
        source = copy.copy(self)
        source.rejections, source.failure = rejections, None
        return source

    def fingerprint(self) -> str:
        """Changes whenever the elements of a split do."""
        return f"{self.corpus.fingerprint()}/{self.validation_fraction!r}"

    def _elements(self, split: str, shard: int, num_shards: int) -> Iterator[dict[str, Any]]:
        """What the corpus rejects is added to `rejections`."""
        for document in self.corpus.read(self.rejections, shard=shard, num_shards=num_shards):
            if split_of(document.text, self.validation_fraction) == split:
                yield {"text": document.text, "id": document.name}
