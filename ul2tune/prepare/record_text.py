"""The text of an instruction collection as a corpus: to train a vocabulary on, or to denoise."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ul2tune.data.documents import Document, Rejections
from ul2tune.instructions.records import Record, RecordCorpus, Renderer
from ul2tune.prepare.identity import identity


@dataclass(frozen=True, kw_only=True)
class RecordText:
    """What the training records say, each thing once.

    Per corpus, the first record is a document as it is rendered (instruction, examples, layout);
    every record is one of its input and first target.

    Attributes:
      corpora: only their ``train`` splits are read, so nothing held out gets in.
      render: for the first records; counts no tokens.
    """

    corpora: Sequence[RecordCorpus]
    render: Renderer

    def read(
        self, rejections: Rejections, *, shard: int = 0, num_shards: int = 1
    ) -> Iterator[Document]:
        """Yields one shard's documents.

        Raises:
          ValueError: if the collection's files are malformed.
        """
        for index, document in enumerate(self._documents()):
            if index % num_shards == shard:
                rejections.num_records += 1
                rejections.num_bytes += len(document.text.encode())
                yield document

    def fingerprint(self) -> str:
        """Changes whenever a document does."""
        facts = [[corpus.fingerprint() for corpus in self.corpora], identity(self.render)]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def num_bytes(self) -> int:
        """The documents' size."""
        # Counted once for every split, plan and progress line: it reads the whole collection.
        now = self.fingerprint()
        if now not in self._sizes:
            self._sizes[now] = sum(len(document.text.encode()) for document in self._documents())
        return self._sizes[now]

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        """By fingerprint."""
        return {}

    def _documents(self) -> Iterator[Document]:
        for corpus in self.corpora:
            for number, record in enumerate(corpus.read("train")):
                yield from self._of(record, number == 0)

    def _of(self, record: Record, is_first: bool) -> Iterator[Document]:
        name = f"{record.task}/{record.id}"
        rendered = self.render(record, 0) if is_first else None
        if rendered is not None:
            yield Document(name=f"{name}:prompt", text=rendered.inputs + rendered.targets)
        yield Document(name=name, text=f"{record.input}\n{record.targets[0]}")
