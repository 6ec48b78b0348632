"""SeqIO sources over corpora: documents with a name and text, split by hash, sharded at will."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import seqio

from ul2tune.data.documents import Corpus, Rejections, split_of
from ul2tune.prepare.runtime import tf

SPLITS = ("train", "validation")


class DocumentSource(seqio.DataSource):
    """Elements ``{"text", "id"}`` in the corpus's order.

    Which split a document falls into depends on its text alone, so adding files or reordering them
    moves no document across.

    Args:
      corpus: the documents.
      validation_fraction: about this share of the documents is the validation split; 0 makes it
        empty.

    Attributes:
      rejections: what was read and rejected so far, over all calls; see `counting`.
      failure: what stopped the last reading; TensorFlow hides it in a long message of its own.
    """

    def __init__(self, corpus: Corpus, validation_fraction: float = 0.02):
        super().__init__(splits=SPLITS)
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {validation_fraction}.")
        self.corpus, self.validation_fraction = corpus, validation_fraction
        self.rejections = Rejections()
        self.failure: Exception | None = None

    def counting(self, rejections: Rejections) -> DocumentSource:
        """The same source with counts and a failure of its own, whatever else reads beside it."""
        source = copy.copy(self)
        source.rejections, source.failure = rejections, None
        return source

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def fingerprint(self) -> str:
        """Changes whenever the elements of a split do."""
        return f"{self.corpus.fingerprint()}/{self.validation_fraction!r}"

    def read(self, split: str, shard: int = 0, num_shards: int = 1) -> Iterator[dict[str, str]]:
        """The elements without TensorFlow; rejected records are added to `rejections`."""
        self.failure = None
        try:
            for document in self.corpus.read(self.rejections, shard=shard, num_shards=num_shards):
                if split_of(document.text, self.validation_fraction) == split:
                    yield {"text": document.text, "id": document.name}
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
        """One pass in order. `shuffle` is left to the task's shuffle buffer: the order of the files
        says nothing about that of the documents.
        """
        if split not in self.splits:
            raise ValueError(f"No split {split!r}; there are {self.splits}.")
        shard, num_shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
        text = tf.TensorSpec([], tf.string)
        return tf.data.Dataset.from_generator(
            lambda: self.read(split, shard, num_shards),
            output_signature={"text": text, "id": text},
        )
