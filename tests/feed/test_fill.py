"""The promises about packing UL2: fill, rates and segment lengths, on the real thing."""

import numpy as np
import pytest

from tests.feed import prepared
from ul2tune.data.ul2 import UL2Noise, preset
from ul2tune.feed.feed import Feed, FeedConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    texts = prepared.documents(300, low=200, high=1800)
    tasks = [prepared.Task(name="text", examples=texts, noise=preset("ul2"))]
    return prepared.write(tmp_path_factory.mktemp("fill"), "ul2", tasks)


def config_of(folder, inputs, targets, **fields):
    lengths = {"inputs": inputs, "targets": targets}
    return FeedConfig(
        mixture="ul2", data_dir=str(folder), feature_lengths=lengths, batch_size=16, **fields
    )


def run(config, num_batches):
    with Feed(config) as feed:
        batches = [next(feed) for _ in range(num_batches)]
        return batches, feed.stats(), feed.source_names


@pytest.mark.parametrize(
    ("inputs", "targets", "num_batches"), [(1024, 512, 60), (2048, 1024, 30), (512, 256, 60)]
)
def test_balanced_rows_are_full(folder, inputs, targets, num_batches):
    _, stats, _ = run(config_of(folder, inputs, targets), num_batches)
    assert stats["fill/inputs"] >= 0.95
    assert stats["fill/targets"] >= 0.85


def test_fill_counts_real_positions(folder):
    batches, stats, _ = run(config_of(folder, 1024, 512), 5)
    encoder = np.mean([(batch["encoder_segment_ids"] > 0).mean() for batch in batches])
    decoder = np.mean([(batch["decoder_loss_weights"] > 0).mean() for batch in batches])
    assert stats["fill/inputs"] == pytest.approx(encoder)
    assert stats["fill/targets"] == pytest.approx(decoder)
    assert stats["rows"] == 5 * 16


def test_prefix_lm_rows_are_full(folder):
    _, stats, _ = run(config_of(folder, 512, 512, layout="prefix_lm"), 20)
    assert stats["fill/rows"] >= 0.99


def test_rates_of_the_recipe_hold(folder):
    """Three sigma of a multinomial, although packing chooses among what waits."""
    _, stats, names = run(config_of(folder, 1024, 512, seed=11), 120)
    segments = np.array([stats[f"segments/{name}"] for name in names])
    sigma = np.sqrt(segments.sum() * (1 / 7) * (6 / 7))
    assert np.all(np.abs(segments - segments.sum() / 7) <= 3 * sigma)


def test_segments_have_between_256_and_512_raw_tokens(folder):
    noise = UL2Noise(preset("ul2"), prepared.VOCABULARY.info)
    batches, stats, names = run(config_of(folder, 1024, 512), 4)
    raw = [
        noise.undo(s.inputs, s.targets, noise.names.index(s.source.split("/")[1])).size
        for batch in batches
        for s in prepared.unpack(batch, names)
    ]
    assert min(raw) >= 256
    assert max(raw) <= 512
    assert stats["segments"] == len(raw)
    assert stats["raw_tokens"] == sum(raw)


def test_every_wait_ends(folder):
    """No draw waits much longer than its turn: the oldest of a window is placed first."""
    with Feed(config_of(folder, 1024, 512, prefetch_batches=0)) as feed:
        for _ in range(60):
            next(feed)
        state = feed.get_state()
    waited = state["counter"][:, None] - state["pending_counter"]
    assert waited.max() < 32 * 8
