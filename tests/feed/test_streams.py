"""What rows read: every document once, in order, whoever reads it and wherever it goes on."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from tests.feed import prepared
from ul2tune.data import vocab
from ul2tune.data.ul2 import UL2Noise, preset
from ul2tune.feed.feed import Feed, FeedConfig, eval_batches

TEXTS, OTHERS = (
    prepared.documents(37, low=20, high=400),
    prepared.documents(11, seed=5, low=30, high=90),
)
PAIRS = prepared.pairs(23)
NOISE = UL2Noise(preset("ul2"), prepared.VOCABULARY.info)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    tasks = [
        prepared.Task(name="texts", examples=TEXTS, noise=preset("ul2")),
        prepared.Task(name="others", examples=OTHERS, noise=preset("span_corruption")),
        prepared.Task(name="pairs", examples=PAIRS),
    ]
    prepared.write(folder, "mixed", tasks, rates=[0.5, 0.2, 0.3])
    prepared.write(folder, "texts_only", tasks[:1])
    return prepared.write(folder, "pairs_only", tasks[2:])


def config_of(folder, mixture="mixed", **fields):
    values = {
        "mixture": mixture,
        "data_dir": str(folder),
        "feature_lengths": {"inputs": 256, "targets": 128},
        "batch_size": 4,
        "seed": 3,
        "window": 6,
        "min_segment_tokens": 48,
        "max_segment_tokens": 96,
        "prefetch_batches": 0,
    }
    return FeedConfig(**values | fields)


def all_segments(config):
    with Feed(config) as feed:
        return [segment for batch in feed for segment in prepared.unpack(batch, feed.source_names)]


def raw_text(segment):
    """The text before the noise: UL2's own inverse."""
    return NOISE.undo(
        segment.inputs, segment.targets, NOISE.names.index(segment.source.split("/")[1])
    )


def texts_by_row(segments):
    rows = defaultdict(list)
    for segment in segments:
        if segment.source.startswith("texts/"):
            rows[segment.row].append(raw_text(segment))
    return {row: np.concatenate(parts) for row, parts in rows.items()}


def split_documents(text, documents):
    """Which documents a running text consists of; fails where it is not a sequence of them."""
    found, position = [], 0
    while position < text.size:
        matching = [
            i
            for i, document in enumerate(documents)
            if np.array_equal(
                text[position : position + len(document["targets"])], document["targets"]
            )
        ]
        assert matching, f"no document starts at {position}"
        found.append(max(matching, key=lambda i: len(documents[i]["targets"])))
        position += len(documents[found[-1]]["targets"])
    return found


@pytest.mark.parametrize("packing", ["balanced", "greedy"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_an_epoch_shows_every_document_and_example_once(folder, packing, epochs):
    segments = all_segments(config_of(folder, packing=packing, num_epochs=epochs))
    seen = [i for text in texts_by_row(segments).values() for i in split_documents(text, TEXTS)]
    assert Counter(seen) == dict.fromkeys(range(len(TEXTS)), epochs)
    firsts = Counter(int(s.inputs[0]) - 3 for s in segments if s.source == "pairs")
    assert firsts == dict.fromkeys(range(len(PAIRS)), epochs)


def test_segments_keep_their_bounds_except_where_text_ends(folder):
    segments = all_segments(config_of(folder, "texts_only", num_epochs=1))
    for row in range(4):
        lengths = [raw_text(s).size for s in segments if s.row == row]
        assert all(48 <= n <= 96 for n in lengths[:-2])
        assert max(lengths) <= 96


def test_shuffling_changes_every_epoch_and_with_the_seed(folder):
    orders = []
    for seed in (3, 4):
        config = config_of(folder, "texts_only", num_epochs=2, batch_size=1, seed=seed)
        (text,) = texts_by_row(all_segments(config)).values()
        order = split_documents(text, TEXTS)
        orders += [tuple(order[: len(TEXTS)]), tuple(order[len(TEXTS) :])]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(len(TEXTS))) for order in orders)


def test_fixed_examples_arrive_unchanged(folder):
    for segment in all_segments(config_of(folder, "pairs_only", num_epochs=1)):
        want = PAIRS[int(segment.inputs[0]) - 3]
        np.testing.assert_array_equal(segment.inputs, want["inputs"])
        np.testing.assert_array_equal(segment.targets, want["targets"])


def test_without_crossing_no_segment_holds_two_documents(folder):
    config = config_of(folder, "texts_only", num_epochs=1, cross_documents=False)
    seen = Counter()
    for segment in all_segments(config):
        text = raw_text(segment)
        owners = [
            (i, start)
            for i, document in enumerate(TEXTS)
            for start in range(len(document["targets"]) - text.size + 1)
            if np.array_equal(document["targets"][start : start + text.size], text)
        ]
        assert owners, "a segment that is no piece of one document"
        seen[owners[0][0]] += text.size
    assert sum(seen.values()) == sum(len(d["targets"]) for d in TEXTS)


def test_a_separator_stands_after_every_document(folder):
    config = config_of(folder, "texts_only", num_epochs=1, document_separator="eos")
    with_eos = [{"targets": np.append(d["targets"], 1)} for d in TEXTS]
    seen = [
        i for t in texts_by_row(all_segments(config)).values() for i in split_documents(t, with_eos)
    ]
    assert sorted(seen) == list(range(len(TEXTS)))


CASES = {
    "mixed": {},
    "greedy": {"packing": "greedy"},
    "unpacked": {"packing": "none"},
    "prefix_lm": {"layout": "prefix_lm", "loss_on_inputs": True},
    "causal_lm": {"layout": "causal_lm"},
    "inside documents": {"cross_documents": False, "document_separator": "eos"},
    "finite": {"num_epochs": 1},
    "finite inside documents": {"num_epochs": 2, "cross_documents": False},
}


def equal(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_restored_at_every_position_it_goes_on_the_same(folder, case):
    config = config_of(folder, **CASES[case])
    batches, states = [], []
    with Feed(config) as feed:
        states.append(feed.get_state())
        for _, batch in zip(range(10), feed, strict=False):
            batches.append(batch)
            states.append(feed.get_state())
    with Feed(config) as feed:
        for position, state in enumerate(states):
            feed.set_state(state)
            equal(feed.get_state(), state)
            for number in range(position, min(position + 3, len(batches))):
                equal(next(feed), batches[number])
                equal(feed.get_state(), states[number + 1])
    assert all(value.dtype == np.int64 for state in states for value in state.values())
    assert len({value.shape for value in [s["pending_counter"] for s in states]}) == 1


@pytest.mark.parametrize("case", CASES)
def test_rows_do_not_depend_on_who_else_is_there(folder, case):
    """One feed of four rows = four feeds of one row = two feeds in another order."""
    config = config_of(folder, **CASES[case])
    splits = [[[0, 1, 2, 3]], [[0], [1], [2], [3]], [[3, 1], [0, 2]]]
    results = []
    for split in splits:
        feeds = [Feed(config, rows) for rows in split]
        steps = []
        for _ in range(6):
            rows = np.concatenate(split)
            parts = [next(feed) for feed in feeds]
            joined = {n: np.concatenate([p[n] for p in parts])[np.argsort(rows)] for n in parts[0]}
            steps.append(joined)
        results.append(steps)
        for feed in feeds:
            feed.close()
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            equal(one, two)


def test_a_state_moves_between_splits_of_the_rows(folder):
    config = config_of(folder)
    with Feed(config) as feed:
        for _ in range(3):
            next(feed)
        state, want = feed.get_state(), next(feed)
    shuffled = {name: value[[2, 0, 3, 1]] for name, value in state.items()}
    with Feed(config, rows=[1, 3]) as feed:
        feed.set_state(shuffled)
        equal(next(feed), {name: value[[1, 3]] for name, value in want.items()})


def test_unpacked_rows_are_as_long_as_always_fits(folder):
    config = config_of(
        folder, "texts_only", packing="none", feature_lengths={"inputs": 128, "targets": 128}
    )
    with Feed(config) as feed:
        for _ in range(10):
            batch = next(feed)
            assert "decoder_segment_ids" not in batch
            for row in range(4):
                inputs, targets = (
                    batch["encoder_input_tokens"][row],
                    batch["decoder_target_tokens"][row],
                )
                number = int(batch["decoder_source_ids"][row, 0]) - 1
                text = NOISE.undo(inputs[inputs != 0], targets[targets != 0], number)
                assert text.size == NOISE.max_raw(number, 128, 128)


@pytest.mark.parametrize("layout", ["prefix_lm", "causal_lm"])
def test_one_sided_rows_hold_inputs_and_targets(folder, layout):
    config = config_of(folder, "pairs_only", layout=layout, num_epochs=1)
    seen = set()
    with Feed(config) as feed:
        for batch in feed:
            assert batch["decoder_target_tokens"].shape == (4, 384)
            assert ("decoder_causal_attention" in batch) == (layout == "prefix_lm")
            for row, segments in enumerate(batch["decoder_segment_ids"]):
                for segment in range(1, segments.max() + 1):
                    places = segments == segment
                    tokens = batch["decoder_target_tokens"][row, places]
                    want = PAIRS[int(tokens[0]) - 3]
                    np.testing.assert_array_equal(tokens, [*want["inputs"], *want["targets"]])
                    weights = [0] * len(want["inputs"]) + [1] * len(want["targets"])
                    np.testing.assert_array_equal(
                        batch["decoder_loss_weights"][row, places], weights
                    )
                    seen.add(int(tokens[0]) - 3)
    assert seen == set(range(len(PAIRS)))


def test_too_long_examples_are_cut_and_counted(folder):
    lengths = {"inputs": 20, "targets": 8}
    config = config_of(folder, "pairs_only", feature_lengths=lengths, num_epochs=1)
    with Feed(config) as feed:
        segments = [s for batch in feed for s in prepared.unpack(batch, feed.source_names)]
        stats = feed.stats()
    too_long = [e for e in PAIRS if len(e["inputs"]) > 20 or len(e["targets"]) > 8]
    assert stats["truncated_examples"] == len(too_long) > 0
    assert len(segments) == len(PAIRS)
    for segment in segments:
        want = PAIRS[int(segment.inputs[0]) - 3]
        # As in SeqIO, an EOS of the examples' own is a token like any other.
        np.testing.assert_array_equal(segment.inputs, want["inputs"][:20])


@pytest.mark.parametrize("eos", [1, 77])
def test_eos_is_appended_where_the_task_asks_for_it(tmp_path, eos):
    examples = [{"inputs": [5, 6, 7], "targets": [8, 9, 10, 11]}]
    vocabulary = vocab.PassThroughVocabulary(num_ids=100, eos=eos)
    task = prepared.Task(
        name="bare", examples=examples, num_shards=1, add_eos=True, vocabulary=vocabulary
    )
    prepared.write(tmp_path, "bare", [task])
    lengths = {"inputs": 8, "targets": 3}
    config = config_of(tmp_path, "bare", feature_lengths=lengths, batch_size=1, num_epochs=1)
    (segment,) = all_segments(config)
    np.testing.assert_array_equal(segment.inputs, [5, 6, 7, eos])
    np.testing.assert_array_equal(segment.targets, [8, 9, eos])


def test_text_is_separated_and_ended_by_the_vocabularys_own_end_of_sequence(tmp_path):
    vocabulary = vocab.PassThroughVocabulary(num_ids=100, eos=77)
    examples = [{"targets": [5, 6, 7]}, {"targets": [8]}]
    task = prepared.Task(
        name="text", examples=examples, noise=preset("causal_lm"), vocabulary=vocabulary
    )
    prepared.write(tmp_path, "text", [task])
    fields = {"batch_size": 1, "num_epochs": 1, "shuffle": False, "document_separator": "eos"}
    (segment,) = all_segments(config_of(tmp_path, "text", **fields))
    np.testing.assert_array_equal(segment.inputs, [77])
    np.testing.assert_array_equal(segment.targets, [5, 6, 7, 77, 8, 77, 77])


def test_evaluation_shows_all_once_in_order_on_every_host(folder):
    config = config_of(folder, "texts_only", num_workers=1)
    whole = list(eval_batches(config))
    parts = [list(eval_batches(config, rows)) for rows in ([0, 1], [2, 3])]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for i, batch in enumerate(whole):
        equal(batch, {n: np.concatenate([p[i][n] for p in parts]) for n in batch})
    names = [f"texts/{name}" for name in NOISE.names]
    texts = texts_by_row([s for batch in whole for s in prepared.unpack(batch, names)])
    for row, text in texts.items():
        assert split_documents(text, TEXTS) == list(range(row, len(TEXTS), 4))
    assert len(list(eval_batches(config, max_batches=2))) == 2
    padding = whole[-1]["encoder_input_tokens"].sum(axis=1) == 0
    assert not whole[-1]["decoder_loss_weights"][padding].any()


def test_empty_documents_are_skipped_without_a_trace(tmp_path):
    examples = [d for text in TEXTS for d in ({"targets": []}, text)]
    prepared.write(
        tmp_path, "holes", [prepared.Task(name="texts", examples=examples, noise=preset("ul2"))]
    )
    config = config_of(tmp_path, "holes", num_epochs=1)
    segments = all_segments(config)
    seen = [i for text in texts_by_row(segments).values() for i in split_documents(text, TEXTS)]
    assert sorted(seen) == list(range(len(TEXTS)))
    states = {}
    for batch_size_seen in (False, True):
        with Feed(config) as feed:
            next(feed)
            if batch_size_seen:
                feed.set_state(feed.get_state())
            next(feed)
            states[batch_size_seen] = feed.get_state()
    equal(states[False], states[True])


CHANGES = {
    "mixture": "pairs_only",
    "feature_lengths": {"inputs": 192, "targets": 128},
    "batch_size": 3,
    "split": None,
    "seed": 9,
    "layout": "prefix_lm",
    "packing": "greedy",
    "window": 9,
    "min_segment_tokens": 60,
    "max_segment_tokens": 80,
    "cross_documents": False,
    "document_separator": "eos",
    "loss_on_inputs": True,
    "shuffle": False,
    "num_epochs": 1,
    "max_examples": 3,
}
# These change how batches are made, never what is in them (tests of their own).
SILENT = {"data_dir", "num_workers", "prefetch_batches", "verify_checksums"}


def test_every_field_of_the_configuration_is_alive(folder):
    base = config_of(folder)
    assert CHANGES.keys() | SILENT == base.__dataclass_fields__.keys()
    with Feed(base) as feed:
        want = [next(feed) for _ in range(6)]
    for name, value in CHANGES.items():
        if name == "split":
            with pytest.raises(FileNotFoundError, match="validation"):
                Feed(replace(base, split="validation"))
            continue
        layout = {"layout": "prefix_lm"} if name == "loss_on_inputs" else {}
        before = want
        if layout:
            with Feed(replace(base, **layout)) as feed:
                before = [next(feed) for _ in range(6)]
        # A finite pass shows where a task ends.
        count = 40 if name == "num_epochs" else 6
        with Feed(replace(base, **layout, **{name: value})) as feed:
            got = [batch for _, batch in zip(range(count), feed, strict=False)]
        same = len(got) == count and all(
            one.keys() == two.keys() and all(np.array_equal(one[n], two[n]) for n in one)
            for one, two in zip(before, got)
        )
        assert not same, f"{name} changes nothing"
