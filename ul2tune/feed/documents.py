"""Running text: each row's documents of a task, one after the other, read as they are needed."""

from __future__ import annotations

import math
from collections import deque
from functools import cached_property

import numpy as np

from ul2tune.feed.sources import Sources

_MAX_DOCUMENTS = 64
# A row gives up after it has read the number of a task's documents so many times without meeting
# a token. Once is not enough: shuffled, it misses any one document with probability 1/e.
_MAX_EMPTY_PASSES = 64


class _Cursor:
    """Where one row is in one task.

    A cache: `documents` holds those from `ordinal` on as far as loaded, the first used up to
    `offset`, and `available` counts their tokens. Empty documents are skipped when they are met;
    `num_empty` counts those loaded since the last that was not.
    """

    __slots__ = ("available", "documents", "num_empty", "offset", "ordinal")

    def __init__(self, ordinal: int = 0, offset: int = 0):
        self.ordinal, self.offset = ordinal, offset
        self.documents: deque[np.ndarray] = deque()
        self.available = -offset
        self.num_empty = 0

    @property
    def next_ordinal(self) -> int:
        return self.ordinal + len(self.documents)

    def append(self, document: np.ndarray) -> None:
        self.documents.append(document)
        self.available += document.size
        self.num_empty = 0 if document.size else self.num_empty + 1
        self._skip_empty()

    def take(self, num_tokens: int) -> tuple[list[np.ndarray], int, int]:
        """The next tokens, in pieces, and where the last one ends: (ordinal, offset).

        They must be available. Empty documents that follow are skipped, but the position stays
        before them: it must not depend on how far this cache looked ahead.
        """
        assert num_tokens <= self.available, (num_tokens, self.available)
        self.available -= num_tokens
        pieces, where = [], (self.ordinal, self.offset)
        while num_tokens:
            document = self.documents[0]
            piece = document[self.offset : self.offset + num_tokens]
            pieces.append(piece)
            self.offset += piece.size
            num_tokens -= piece.size
            if self.offset == document.size:
                self._next()
            where = self.ordinal, self.offset
            self._skip_empty()
        return pieces, *where

    def _next(self) -> None:
        self.documents.popleft()
        self.ordinal, self.offset = self.ordinal + 1, 0

    def _skip_empty(self) -> None:
        while self.documents and not self.documents[0].size:
            self._next()


class Documents:
    """The running text of some rows of the global batch.

    Row `b` of `B` reads documents `b, b + B, b + 2B, …` of each task's shuffled, endless order:
    over all rows every document occurs once per epoch. Rows that read faster than others begin
    their next epoch before all have ended this one.

    Args:
      sources: the tasks.
      rows: ids of the rows.

    Attributes:
      ordinal, offset: int64 [R, T], the state: the next token of a task is number `offset` of the
        row's document `ordinal`.
    """

    def __init__(self, sources: Sources, rows: np.ndarray):
        self.ordinal = np.zeros((len(rows), len(sources.tasks)), np.int64)
        self.offset = np.zeros_like(self.ordinal)
        config = sources.config
        self._sources, self._rows, self._stride = sources, rows, config.batch_size
        self._crosses = config.cross_documents
        # Whether segments can meet an end of text at all.
        self.endless = self._crosses and config.num_epochs is None
        self._cursors: dict[tuple[int, int], _Cursor] = {}
        epochs = config.num_epochs
        self._limits = None if epochs is None else sources.sizes * epochs

    def go_to(self, ordinal: np.ndarray, offset: np.ndarray) -> None:
        """Goes to a position, [R, T] each."""
        self.ordinal, self.offset = ordinal.astype(np.int64), offset.astype(np.int64)
        self._cursors.clear()

    def take(self, rows: np.ndarray, tasks: np.ndarray, num_tokens: np.ndarray) -> list[list]:
        """The next tokens of some rows ([N] each), every row's in pieces."""
        if rows.size:
            self._ensure(rows, tasks, int(num_tokens.max()) if self._crosses else 1)
        taken = []
        for row, task, count in zip(
            rows.tolist(), tasks.tolist(), num_tokens.tolist(), strict=True
        ):
            pieces, *where = self._cursor(row, task).take(count)
            self.ordinal[row, task], self.offset[row, task] = where
            taken.append(pieces)
        return taken

    def available(self, rows: np.ndarray, tasks: np.ndarray, wanted: int) -> np.ndarray:
        """How many tokens the next segments of some rows may take, at most `wanted`.

        Fewer than wanted only where text ends: the finite pass, or the document if segments may
        not cross. Loads what it must to know.

        Args:
          rows, tasks: [N] pairs.
          wanted: tokens.
        """
        if self.endless:
            return np.full(len(rows), wanted)
        cursors = self._ensure(rows, tasks, wanted if self._crosses else 1)
        if self._crosses:
            found = [cursor.available for cursor in cursors]
        else:
            found = [c.documents[0].size - c.offset if c.documents else 0 for c in cursors]
        return np.minimum(np.array(found, np.int64), wanted)

    def _ensure(self, rows: np.ndarray, tasks: np.ndarray, needed: int) -> list[_Cursor]:
        """Loads until `needed` tokens are at hand, or all there are."""
        cursors = [self._cursor(r, t) for r, t in zip(rows.tolist(), tasks.tolist(), strict=True)]
        # Several draws of a row may wait for the same text: each cursor once.
        first = {cursor: i for i, cursor in reversed(list(enumerate(cursors)))}
        short = np.array(sorted(i for c, i in first.items() if c.available < needed), np.int64)
        while short.size:
            more = self._load([cursors[i] for i in short], rows[short], tasks[short], needed)
            short = short[more]
            for i in short.tolist():
                self._check_text(cursors[i], int(tasks[i]))
        return cursors

    def _check_text(self, cursor: _Cursor, task: int) -> None:
        """Refuses a task that would be read for ever without meeting a token."""
        source = self._sources.tasks[task]
        if cursor.num_empty >= _MAX_EMPTY_PASSES * source.size:
            apart = math.gcd(self._stride, source.size)
            if apart > 1 and not self._sources.config.shuffle:
                raise ValueError(
                    f"A row reads only empty documents of task {source.name!r}: in stored order "
                    f"(FeedConfig.shuffle = False) BATCH_SIZE = {self._stride} rows read one in "
                    f"{apart} of its {source.size} each, always the same ones. Shuffle, use a "
                    f"batch size that has no divisor in common with {source.size}, or prepare the "
                    f"task without empty documents."
                )
            raise ValueError(
                f"Task {source.name!r} has no text: the last {cursor.num_empty} documents that a "
                f"row read of its {source.size} in use are empty. Prepare other sources, or take "
                "it out of the mixture."
            )

    def _cursor(self, row: int, task: int) -> _Cursor:
        if (row, task) not in self._cursors:
            where = int(self.ordinal[row, task]), int(self.offset[row, task])
            self._cursors[row, task] = _Cursor(*where)
        return self._cursors[row, task]

    def _left(self, cursor: _Cursor, row: int, task: int) -> int:
        """Documents of a finite pass not loaded yet."""
        if self._limits is None:
            return _MAX_DOCUMENTS
        done = self._rows[row] + cursor.next_ordinal * self._stride
        return max(0, -(-(int(self._limits[task]) - int(done)) // self._stride))

    def _load(self, cursors, rows, tasks, needed: int) -> np.ndarray:
        """Loads some documents for each cursor; returns which need still more and can get it."""
        columns = list(zip(cursors, rows.tolist(), tasks.tolist(), strict=True))
        counts_N = np.array(
            [
                min(
                    int((needed - cursor.available) / self._mean_tokens[task]) + 1,
                    _MAX_DOCUMENTS,
                    self._left(cursor, row, task),
                )
                for cursor, row, task in columns
            ]
        )
        owner = np.repeat(np.arange(len(cursors)), counts_N)
        within = np.arange(owner.size) - np.repeat(np.cumsum(counts_N) - counts_N, counts_N)
        local = np.array([c.next_ordinal for c in cursors])[owner] + within
        ordinals = self._rows[rows[owner]] + local * self._stride
        index = self._sources.document_index(tasks[owner], ordinals)
        for task in np.unique(tasks[owner]):
            chosen = np.flatnonzero(tasks[owner] == task)
            for i, text in zip(chosen, self._sources.texts(int(task), index[chosen]), strict=True):
                cursors[owner[i]].append(text)
        return np.array(
            [c.available < needed and self._left(c, row, task) > 0 for c, row, task in columns]
        )

    @cached_property
    def _mean_tokens(self) -> list[float]:
        """Tokens per document of each task, at least 1."""
        means = []
        for source in self._sources.tasks:
            facts = source.manifest.features.get(source.text_feature, {})
            means.append(max(1.0, facts.get("tokens", 0) / max(1, source.manifest.num_examples)))
        return means
