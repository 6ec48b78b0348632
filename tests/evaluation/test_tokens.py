"""Tokens that end answers."""

import pytest

from ul2tune.data.vocab import ByteVocabulary
from ul2tune.data.vocab_extended import extend
from ul2tune.evaluation.tokens import stop_token, until

VOCABULARY = ByteVocabulary(extra_ids=5)


@pytest.mark.parametrize(
    ("vocabulary", "text"),
    [(VOCABULARY, "<extra_id_3>"), (extend(VOCABULARY, ("<|im_end|>",)), "<|im_end|>")],
)
def test_special_and_added_tokens_end_answers(vocabulary, text):
    token = stop_token(vocabulary, text)
    assert token is not None
    assert vocabulary.decode_pieces([token]) == [text]


def test_nothing_need_end_answers():
    assert stop_token(VOCABULARY, None) is None


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (
            VOCABULARY,
            r"InferConfig\.stop = '<extra_id>' is no .* The nearest are \['<extra_id_.*'\]\.",
        ),
        (
            ByteVocabulary(extra_ids=0, modes=()),
            r"InferConfig\.stop = '<extra_id>' is no .* It has none\.",
        ),
    ],
)
def test_other_texts_do_not(vocabulary, message):
    with pytest.raises(ValueError, match=message):
        stop_token(vocabulary, "<extra_id>")


def test_until():
    assert until([5, 6, 7, 6], 6) == [5]
    assert until([5, 6], None) == [5, 6]
    assert until([5, 6], 7) == [5, 6]
