"""The sections that `ul2tune inspect` prints."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import textwrap
from collections.abc import Iterable

import numpy as np

from ul2tune.cli import render, render_mixture
from ul2tune.cli.shown import HINT, divide
from ul2tune.data import manifest, roundtrip
from ul2tune.data.manifest import MixtureManifest, TaskManifest
from ul2tune.data.rates import flat
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.feed import Feed
from ul2tune.feed.store import Readers, Store
from ul2tune.feed.texts import mixture_texts
from ul2tune.first_names import first_names
from ul2tune.instructions import decontaminate

# Examples of a task whose texts are audited, and of all tasks where those of many are summed up.
AUDITED_EXAMPLES = 200
_AUDITED_IN_ALL = 4000
_AUDITED_AT_LEAST = 10
_BLOCK_EXAMPLES = 256  # read at once where only their tokens are counted


def print_tasks(
    data: FeedConfig,
    mixture: MixtureManifest,
    tasks: Iterable[TaskManifest],
    most: int | None = None,
) -> None:
    """The mixture's table, of at most so many tasks."""
    heading(f"{data.mixture} ({data.split})")
    every = _manifests(data, mixture)
    rates = flat(render_mixture.drawn(render_mixture.tree_of(mixture, every), every))
    shown, left = divide(tasks, lambda task: rates.get(task.task, 0.0), most)
    for task in shown:
        tokens = ", ".join(
            f"{name} {facts['tokens']:,} tokens (longest {facts['max_tokens']:,})"
            for name, facts in task.features.items()
        )
        rate = f"{rates.get(task.task, 0.0):7.2%}"
        print(f"{rate}  {task.task}: {task.num_examples:,} examples; {tokens}")
        online = task.online["kind"] if task.online else "nothing: prepared to the end"
        print(f"         online: {online}; metrics: {', '.join(task.metric_names) or 'none'}")
        if rejected := sum(task.rejected.values()):
            print(f"         {rejected:,} malformed records: {', '.join(task.rejected_examples)}")
    if left:
        rate = sum(rates.get(task.task, 0.0) for task in left)
        examples, bad = (
            sum(counts)
            for counts in zip(*((t.num_examples, sum(t.rejected.values())) for t in left))
        )
        malformed = f", {bad:,} malformed records" if bad else ""
        print(
            f"{rate:7.2%}  {len(left):,} more tasks of lower rates: {examples:,} examples"
            f"{malformed} ({HINT})"
        )


def print_rows(feed: Feed, options: argparse.Namespace) -> None:
    """The first rows, or the first that hold the task asked for."""
    left, width = options.rows, max(40, options.width - 13)
    for number in range(options.batches):
        batch = next(feed, None)
        if batch is None or left == 0:
            return
        for row in range(len(feed.rows)):
            found = [
                segment
                for segment in render.segments(batch, row, feed.source_names)
                if options.task in (None, segment.source.partition("/")[0])
            ]
            if not found or left == 0:
                continue
            left -= 1
            heading(f"batch {number}, row {row}")
            for side in ("encoder", "decoder"):
                if f"{side}_input_tokens" in batch:
                    ids_L = render.segment_ids(batch, side, row)
                    fill = f"{(ids_L > 0).sum():,} of {ids_L.size:,} real"
                    print(f"{side}  {fill:>22}  {render.bar(ids_L, width - 20)}")
            for segment in found:
                print_segment(segment, feed, width)


def print_segment(segment: render.Segment, feed: Feed, width: int) -> None:
    inputs, targets = render.text(segment, feed.vocabulary)
    counts = [f"{segment.targets_L.size:,} target tokens, {segment.loss_L.sum():,} with loss"]
    if segment.inputs_L.size:
        counts.insert(0, f"{segment.inputs_L.size:,} input tokens")
    print(
        f"\n  segment {segment.number}: {segment.source or 'unnamed source'}; {'; '.join(counts)}"
    )
    for name, words in (("inputs", inputs), ("targets", targets)):
        if words:
            block = textwrap.indent(render.shorten(words, width), " " * 13)
            print(f"    {name:<9}{block.lstrip()}")


def print_fill(feed: Feed, num_batches: int, most: int | None = None) -> None:
    """Fill over some batches, and their shares of every source beside its rate; of at most so many
    sources, those drawn most."""
    for _ in range(num_batches):
        if next(feed, None) is None:
            break
    stats = feed.stats()
    heading(f"{int(stats['rows']):,} rows: fill and shares")
    for side in ("inputs", "targets", "rows"):
        if f"fill/{side}" in stats:
            print(f"{stats[f'fill/{side}']:7.2%}  of {side} positions are real tokens")
    print(f"{stats['segments'] / max(1, stats['rows']):7.2f}  segments per row")
    print(f"{stats['truncated_examples']:7.0f}  examples were cut to TASK_FEATURE_LENGTHS")
    print("    rate   segments   raw tokens  source")
    shares = [
        (
            rate,
            stats[f"segments/{name}"] / max(1, stats["segments"]),
            stats[f"raw_tokens/{name}"] / max(1, stats["raw_tokens"]),
            name,
        )
        for name, rate in zip(feed.source_names, feed.source_rates, strict=True)
    ]
    shown, left = divide(shares, lambda share: share[0], most)
    if left:
        first, second, third = (sum(column) for column in zip(*(share[:3] for share in left)))
        shown.append((first, second, third, f"{len(left):,} more sources of lower rates ({HINT})"))
    for rate, of_segments, of_tokens, name in shown:
        print(f" {rate:7.2%}    {of_segments:7.2%}      {of_tokens:7.2%}  {name}")
    if feed.config.packing == "balanced":
        print(
            f"(These are a run's first rows. Each keeps up to {feed.config.window} draws waiting "
            "(FeedConfig.window),\nand those that fit worst wait longest: fill, segments and the "
            "epochs below may differ much from\nthe long run, whose shares match the rates. More "
            "--batches come closer.)"
        )


def print_tree(
    feed: Feed, mixture: MixtureManifest, steps: int | None, most: int | None = None
) -> None:
    """Where the rates come from, and how often a run of the planned steps repeats each task; at
    most so many branches of each mixture."""
    data = feed.config
    tasks = _manifests(data, mixture)
    planned = render_mixture.tree_of(mixture, tasks)
    tree = render_mixture.drawn(planned, tasks)
    plan = render_mixture.make_plan(feed.stats(), steps, data.batch_size) if steps else None
    after = f" after {steps:,} steps of {data.batch_size} rows" if steps else ""
    heading(f"{mixture.name}: the tree of its rates{after}")
    in_use = {name: _in_use(data, task) for name, task in tasks.items()} if plan else tasks
    for line in render_mixture.lines(tree, tasks, plan, in_use, most):
        print(line)
    if tree is not planned:
        lost = {n: rate for n, rate in flat(planned).items() if not tasks[n].num_examples}
        print(
            f"(Tasks without examples in {data.split!r} are not drawn from: "
            f"{sum(lost.values()):.2%} of the mixture's rates, of {first_names(lost)}.\n"
            "All others have grown in proportion.)"
        )
    if plan is None:
        print("(Give --steps, or inspect a training recipe, to see epochs.)")
    elif in_use != tasks:
        print(
            f"(Epochs are of the first {data.max_examples:,} examples of a task, "
            "FeedConfig.max_examples; examples and tokens are all that is prepared.)"
        )


def _manifests(data: FeedConfig, mixture: MixtureManifest) -> dict[str, TaskManifest]:
    return {name: manifest.read_task(data.data_dir, name, data.split) for name in mixture.tasks}


def _in_use(data: FeedConfig, task: TaskManifest) -> TaskManifest:
    """A task as a run sees it that uses its first `FeedConfig.max_examples` examples only."""
    if data.max_examples is None or task.num_examples <= data.max_examples:
        return task
    tokens = dict.fromkeys(task.features, 0)
    with contextlib.closing(Readers()) as readers:
        store = Store(data.data_dir, task, readers)
        for start in range(0, data.max_examples, _BLOCK_EXAMPLES):
            stop = min(start + _BLOCK_EXAMPLES, data.max_examples)
            for example in store.read(np.arange(start, stop)):
                for name in tokens.keys() & example.arrays.keys():
                    tokens[name] += example.arrays[name].size
    features = {name: {**facts, "tokens": tokens[name]} for name, facts in task.features.items()}
    return dataclasses.replace(task, num_examples=data.max_examples, features=features)


def print_overlap(data: FeedConfig, options: argparse.Namespace) -> None:
    """What this split shares with the text that another mixture trains on."""
    heading(f"13-grams shared with {options.against} (train)")
    report = decontaminate.decontaminate(
        mixture_texts(data.data_dir, data.mixture, data.split, instances=True),
        mixture_texts(data.data_dir, options.against, "train", drawn_only=True),
    )
    decontaminate.write_report(report, options.report)
    print(report.describe())
    for found in report.contaminated[:5]:
        print(f"{found.overlap:7.2%}  {found.id}: {found.sources[0]}")
    print(f"All of them, with what they share: {options.report}")


def print_audit(
    feed: Feed,
    data: FeedConfig,
    mixture: MixtureManifest,
    tasks: Iterable[TaskManifest],
    most: int | None = None,
) -> None:
    """What the vocabulary cannot represent: of the tasks' own texts, not of what was tokenised."""
    vocabulary = feed.vocabulary
    heading("vocabulary: text -> tokens -> text")
    print(
        f"{vocabulary.kind}, {vocabulary.size:,} ids: {vocabulary.base_size:,} pieces, "
        f"{vocabulary.extra_ids} sentinels, modes {', '.join(vocabulary.modes) or 'none'}"
    )
    if importlib.util.find_spec("seqio") is None:
        print(
            "The audit reads the tasks' sources, which needs SeqIO: pip install 'ul2tune[prepare]'."
        )
        return
    # Loaded only here: it brings TensorFlow, which no other part of this command needs.
    prepare_audit = importlib.import_module("ul2tune.prepare.audit")
    names = [task.task for task in tasks]
    audited = AUDITED_EXAMPLES if most is None else _audited(len(names))
    reports = prepare_audit.audit(data.mixture, mixture.modules, data.split, audited, tasks=names)
    if len(reports) == 1:
        for name, report in reports.items():
            print(f"{name}: {report.describe()}")
    elif reports:
        print(f"The first {audited} examples of each task; --task=NAME shows where, {HINT}.")
        print(roundtrip.table(reports, most))


def _audited(num_tasks: int) -> int:
    """Examples of each of so many tasks: 1,400 would be read for longer than they are prepared."""
    return max(_AUDITED_AT_LEAST, min(AUDITED_EXAMPLES, _AUDITED_IN_ALL // num_tasks))


def heading(title: str) -> None:
    print(f"\n── {title} {'─' * max(0, 90 - len(title))}")
