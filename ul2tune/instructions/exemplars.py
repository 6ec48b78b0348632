"""Worked examples for few-shot prompts: which ones, and how many fit.

Exemplars come from a pool of the task's training examples. The choice is a pure function of (seed,
query): the same in every process, whatever else is rendered, and the query is never among its own
exemplars. Published Flan collections do leak it (FLAN issue #19: exemplars are drawn from the very
stream the queries are from); `leaky=True` reproduces that.

    demos = choose(pool, 5, query_id=record.id, query_input=record.input, seed=0)
    demos = demos[: fitting([len(tokenizer.encode(text(d))) for d in demos], budget)]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ul2tune.instructions.records import Demo, stable_hash


def choose(
    pool: Sequence[Demo],
    k: int,
    *,
    query_id: str,
    query_input: str,
    seed: int,
    leaky: bool = False,
) -> tuple[Demo, ...]:
    """Draws `k` different exemplars for a query, in random order.

    A pool member is skipped if it is the query (by id, or by its input but for outer white space),
    or repeats an exemplar that was already drawn (same id or same input). The first `k` of a larger
    draw are the draw of `k`. Members without an id are numbered by their position in the pool, so
    that published scores can always name them.

    Args:
      pool: candidates; may hold the query.
      k: how many, >= 0.
      query_id, query_input: of the example the prompt asks about.
      seed: with the query's id, decides the draw.
      leaky: allow the query itself and duplicates, as the authors of Flan do.

    Returns:
      At most `k` demos with ids; fewer only if the pool has no more.

    Raises:
      ValueError: if `k` is negative.
    """
    if k < 0:
        raise ValueError(f"The number of exemplars must be 0 or more, got {k}.")
    chosen: list[Demo] = []
    ids, inputs = {query_id}, {query_input.strip()}
    for index in shuffled(len(pool), seed, "exemplars", query_id) if k else ():
        demo = pool[index]
        demo = demo if demo.id else replace(demo, id=f"demo-{index}")
        text = demo.input.strip()
        if not leaky and (demo.id in ids or text in inputs):
            continue
        ids.add(demo.id)
        inputs.add(text)
        chosen.append(demo)
        if len(chosen) == k:
            break
    return tuple(chosen)


def shuffled(size: int, *key: str | int) -> Iterator[int]:
    """``range(size)`` in a random order that the key decides; costs only what is consumed.

    The Fisher-Yates shuffle, with a table of displaced entries in place of the array.
    """
    moved: dict[int, int] = {}
    for position in range(size):
        other = position + stable_hash(*key, position) % (size - position)
        yield moved.get(other, other)
        moved[other] = moved.get(position, position)


def fitting(lengths: Iterable[int], budget: int) -> int:
    """How many leading exemplars fit: the longest prefix whose lengths sum to at most `budget`.

    Args:
      lengths: tokens of each rendered exemplar, separators included.
      budget: tokens left for exemplars; negative = none.
    """
    total = 0
    count = 0
    for length in lengths:
        total += length
        if total > budget:
            break
        count += 1
    return count
