"""What `inspect` prints about a feed, over small prepared mixtures."""

import sys
from types import SimpleNamespace

import pytest

from tests.feed import prepared
from ul2tune.cli import inspect_sections
from ul2tune.data import manifest
from ul2tune.data.roundtrip import RoundTrip
from ul2tune.data.ul2 import UL2Config, preset
from ul2tune.feed.feed import Feed, FeedConfig
from ul2tune.feed.store import Store


def feed_of(folder, mixture, **fields):
    values = {
        "mixture": mixture,
        "data_dir": str(folder),
        "feature_lengths": {"inputs": 256, "targets": 256},
        "batch_size": 4,
        "min_segment_tokens": 64,
        "max_segment_tokens": 128,
        "prefetch_batches": 0,
    }
    return Feed(FeedConfig(**values | fields))


def tree(feed, capsys, steps):
    mixture = manifest.read_mixture(feed.config.data_dir, feed.config.mixture)
    inspect_sections.print_tree(feed, mixture, steps)
    return capsys.readouterr().out


def test_epochs_are_of_the_examples_that_are_used(tmp_path, capsys):
    """Segments of 255 tokens, of documents as long but for the two that are used."""
    noise = UL2Config(denoisers=preset("causal_lm").denoisers)
    texts = [{"targets": [5] * n} for n in (400, 620, *[255] * 38)]
    tasks = [
        prepared.Task(name="texts", examples=texts, noise=noise),
        prepared.Task(name="pairs", examples=prepared.pairs(40)),
    ]
    prepared.write(tmp_path, "mixed", tasks)
    found = {}
    for limit in (None, 40, 2):
        with feed_of(tmp_path, "mixed", max_examples=limit, packing="none") as feed:
            next(feed)
            printed = tree(feed, capsys, steps=100)
        rows = [line.split() for line in printed.splitlines() if "─ " in line]
        found[limit] = [row[3] for row in rows if row[-1] in ("texts", "pairs")]
        assert ("first 2 examples" in printed) == (limit == 2)
        assert [row[1] for row in rows if row[-1] in ("texts", "pairs")] == ["40", "40"]
    # 400 draws, half of each task: 200 of 40 pairs, 51,000 of 10,710 tokens.
    assert found == {None: ["4.76", "5.00"], 40: ["4.76", "5.00"], 2: ["50.00", "100.00"]}


def test_rates_are_those_of_what_has_examples(tmp_path, capsys):
    """As the feed draws: it leaves a task without examples out, whatever its rate."""
    tasks = [
        prepared.Task(name="full", examples=prepared.pairs(40)),
        prepared.Task(name="fuller", examples=prepared.pairs(80)),
        prepared.Task(name="empty", examples=[]),
    ]
    prepared.write(tmp_path, "mixed", tasks, rates=(0.2, 0.3, 0.5))
    with feed_of(tmp_path, "mixed", packing="none") as feed:
        next(feed)
        assert feed.source_rates == pytest.approx((0.4, 0.6, 0.0))
        mixture = manifest.read_mixture(tmp_path, "mixed")
        manifests = [manifest.read_task(tmp_path, task, "train") for task in mixture.tasks]
        inspect_sections.print_tasks(feed.config, mixture, manifests)
        printed = capsys.readouterr().out
        assert [line.split()[:2] for line in printed.splitlines() if "examples;" in line] == [
            ["40.00%", "full:"],
            ["60.00%", "fuller:"],
            ["0.00%", "empty:"],
        ]
        printed = tree(feed, capsys, steps=100)
    rows = [line.split() for line in printed.splitlines() if {"├─", "└─"} & {*line.split()}]
    # 400 draws, 160 of 40 and 240 of 80.
    assert [(row[0], *row[3:]) for row in rows] == [
        ("40.00%", "4.00", "├─", "full"),
        ("60.00%", "3.00", "├─", "fuller"),
        ("0.00%", "└─", "empty"),
    ]
    assert "without examples in 'train' are not drawn from: 50.00% of the mix" in printed


def test_the_examples_that_are_used_are_counted_block_by_block(tmp_path, monkeypatch):
    """A cap of millions is not held in memory at once; none is counted twice, or not at all."""
    texts = [{"inputs": [5] * n, "targets": [5] * (100 + n)} for n in range(40)]
    prepared.write(tmp_path, "texts", [prepared.Task(name="texts", examples=texts)])
    blocks, read = [], Store.read
    monkeypatch.setattr(inspect_sections, "_BLOCK_EXAMPLES", 8)
    monkeypatch.setattr(Store, "read", lambda self, ids: blocks.append(len(ids)) or read(self, ids))
    task = manifest.read_task(tmp_path, "texts", "train")
    with feed_of(tmp_path, "texts", max_examples=19) as feed:
        used = inspect_sections._in_use(feed.config, task)
    assert blocks == [8, 8, 3]
    assert used.num_examples == 19
    tokens = {name: facts["tokens"] for name, facts in used.features.items()}
    assert tokens == {"inputs": sum(range(19)), "targets": sum(range(100, 119))}


@pytest.mark.parametrize("packing", ["balanced", "greedy"])
def test_shares_of_the_first_rows_stand_beside_the_rates(packing, tmp_path, capsys):
    """The prefix denoiser fits these lengths badly: it is late, and the rates say so."""
    texts = prepared.documents(50)
    tasks = [
        prepared.Task(name="texts", examples=texts, noise=preset("t5gemma2")),
        prepared.Task(name="none", examples=[], num_shards=1),
        prepared.Task(name="pairs", examples=prepared.pairs(40)),
    ]
    prepared.write(tmp_path, "mixed", tasks, rates=[0.6, 0.25, 0.15])
    with feed_of(
        tmp_path,
        "mixed",
        packing=packing,
        feature_lengths={"inputs": 1024, "targets": 512},
        batch_size=16,
        min_segment_tokens=256,
        max_segment_tokens=512,
    ) as feed:
        inspect_sections.print_fill(feed, num_batches=8)
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.split("raw tokens  source\n")[1].splitlines()]
    table = {row[3]: [float(cell.rstrip("%")) for cell in row[:3]] for row in rows[:7]}
    rates = {name: rate for name, (rate, _, _) in table.items()}
    # Without the task that has no examples 4 to 1; of the text half is for the last denoiser.
    spans = ["span_3_15", "span_12_50", "span_32_15", "span_32_50"]
    assert rates == {
        **{f"texts/{name}": 10 for name in spans},
        "texts/prefix_75": 40,
        "none": 0,
        "pairs": 20,
    }
    for column in zip(*table.values(), strict=True):
        assert sum(column) == pytest.approx(100, abs=0.05)
    assert table["none"] == [0, 0, 0]
    assert (table["texts/prefix_75"][1] < 36) == (packing == "balanced")
    assert ("Each keeps up to 32 draws waiting" in printed) == (packing == "balanced")


def test_a_large_mixture_is_summed_up_beyond_its_largest_tasks(tmp_path, capsys):
    tasks = [prepared.Task(name=f"task{i}", examples=prepared.pairs(4 + i)) for i in range(6)]
    prepared.write(tmp_path, "many", tasks, rates=(0.3, 0.05, 0.1, 0.2, 0.05, 0.3))
    mixture = manifest.read_mixture(tmp_path, "many")
    manifests = [manifest.read_task(tmp_path, task, "train") for task in mixture.tasks]
    largest = ["task0", "task3", "task5"]

    def rows(most):
        """What stands last in each line of the tables, and the share it starts with."""
        with feed_of(tmp_path, "many", packing="none") as feed:
            inspect_sections.print_tasks(feed.config, mixture, manifests, most)
            first = capsys.readouterr().out
            inspect_sections.print_fill(feed, 50, most)
            second = capsys.readouterr().out
            inspect_sections.print_tree(feed, mixture, 100, most)
            return first, second, capsys.readouterr().out

    for printed in rows(None):
        assert all(f"task{i}" in printed for i in range(6))
        assert "more" not in printed.replace("More --batches", "")
    first, second, third = rows(3)
    for printed in (first, second, third):
        assert [f"task{i}" for i in range(6) if f"task{i}" in printed] == largest
        assert "(--all shows every one)" in printed
    assert " 20.00%  3 more tasks of lower rates: 19 examples" in first
    assert " 20.00% " in next(line for line in second.splitlines() if "3 more sources" in line)
    (line,) = [line for line in third.splitlines() if "3 more of lower rates" in line]
    assert line.split()[:2] == ["20.00%", "19"]
    assert int(line.split()[2].replace(",", "")) > 0


@pytest.mark.parametrize(
    ("num_tasks", "most", "examples"), [(6, 3, 200), (50, 3, 80), (50, None, 200), (500, 3, 10)]
)
def test_of_many_tasks_fewer_examples_are_audited(num_tasks, most, examples, tmp_path, monkeypatch):
    prepared.write(tmp_path, "one", [prepared.Task(name="one", examples=prepared.pairs(4))])
    asked = []

    def audit(*arguments, tasks):
        asked.append(arguments)
        return {name: RoundTrip(num_texts=1) for name in tasks}

    monkeypatch.setitem(sys.modules, "ul2tune.prepare.audit", SimpleNamespace(audit=audit))
    tasks = [SimpleNamespace(task=f"task{number}") for number in range(num_tasks)]
    with feed_of(tmp_path, "one") as feed:
        mixture = manifest.read_mixture(tmp_path, "one")
        inspect_sections.print_audit(feed, feed.config, mixture, tasks, most)
    assert asked == [("one", (), "train", examples)]
