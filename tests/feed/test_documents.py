"""Running text of very few and very short documents, and of none at all."""

import numpy as np
import pytest

from tests.feed import prepared
from ul2tune.data.ul2 import UL2Config, UL2Noise, preset
from ul2tune.feed.feed import Feed, FeedConfig

NOISE = UL2Config(denoisers=preset("ul2").denoisers[:1])


def config_of(folder, **fields):
    values = {
        "feature_lengths": {"inputs": 1024, "targets": 512},
        "batch_size": 2,
        "prefetch_batches": 0,
    }
    return FeedConfig(mixture="t", data_dir=str(folder), **values | fields)


def write(folder, *documents):
    examples = [{"targets": document} for document in documents]
    prepared.write(folder, "t", [prepared.Task(name="t", examples=examples, noise=NOISE)])


@pytest.mark.parametrize("fields", [{}, {"shuffle": False}, {"num_epochs": 1000}])
@pytest.mark.parametrize("document", [[5], [5, 6], [5, 6, 7]])
def test_a_corpus_of_one_short_document_is_repeated(tmp_path, document, fields):
    """A segment takes it more often than is read at once."""
    write(tmp_path, document)
    with Feed(config_of(tmp_path, **fields)) as feed:
        segments = prepared.unpack(next(feed), feed.source_names)
    noise = UL2Noise(NOISE, prepared.VOCABULARY.info)
    for row in range(2):
        texts = [noise.undo(s.inputs, s.targets, 0) for s in segments if s.row == row]
        assert texts[0].size >= 256
        text = np.concatenate(texts)
        np.testing.assert_array_equal(text, np.resize(document, text.size))


def test_one_short_document_among_empty_ones_is_found(tmp_path):
    write(tmp_path, *[[]] * 99, [5, 6, 7])
    with Feed(config_of(tmp_path)) as feed:
        segments = prepared.unpack(next(feed), feed.source_names)
    assert {segment.row for segment in segments} == {0, 1}


def test_rows_that_read_only_empty_documents_name_the_task(tmp_path):
    """In stored order the second of two rows reads the second of two documents again and again."""
    write(tmp_path, [5, 6, 7], [])
    message = r"A row reads only empty documents of task 't': .* one in 2 of its 2 each, always"
    with Feed(config_of(tmp_path, shuffle=False)) as feed, pytest.raises(ValueError, match=message):
        next(feed)
    with Feed(config_of(tmp_path)) as feed:
        next(feed)  # the remedies are
    with Feed(config_of(tmp_path, shuffle=False, batch_size=3)) as feed:
        next(feed)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_task_without_any_text_is_named(tmp_path, shuffle):
    write(tmp_path, [], [], [])
    message = r"'t' has no text: the last \d+ documents that a row read of its 3 in use are empty"
    with (
        Feed(config_of(tmp_path, shuffle=shuffle)) as feed,
        pytest.raises(ValueError, match=message),
    ):
        next(feed)
