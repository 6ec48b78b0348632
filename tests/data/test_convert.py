"""Feature converters against SeqIO's own outputs, and small cases of our own."""

import numpy as np
import pytest

from ul2tune.data import convert, packing
from ul2tune.data.ragged import Ragged

INPUTS = [[7, 8, 5, 1], [8, 4, 1]]
TARGETS = [[3, 9, 1], [4, 1]]


def segments(inputs, targets, rows, *, packed=True, sources=None):
    return convert.Segments(
        inputs=Ragged.from_rows(inputs),
        targets=Ragged.from_rows(targets),
        placement=packing.place(np.array(rows), num_rows=max(rows) + 1),
        packed=packed,
        sources=sources,
    )


def golden(shared, prefix):
    data = np.load(shared / "golden" / "ul2" / "converters.npz")
    examples = [
        Ragged(data[f"in_{side}__values"], data[f"in_{side}__lengths"].astype(np.int64))
        for side in ("inputs", "targets")
    ]
    want = {n.removeprefix(prefix + "_"): data[n] for n in data.files if n.startswith(prefix + "_")}
    return *examples, want


def packed_segments(inputs, targets, lengths_NC, capacity):
    return convert.Segments(
        inputs=inputs,
        targets=targets,
        placement=packing.in_order(lengths_NC, capacity),
        packed=True,
    )


def check(got, want):
    assert want.keys() == got.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
        assert got[name].dtype == np.int32


@pytest.mark.parametrize("packed", [0, 1])
def test_encoder_decoder_is_seqios(shared, packed):
    inputs, targets, want = golden(shared, f"encdec_pack{packed}")
    if packed:
        lengths = np.stack([inputs.lengths, targets.lengths], axis=1)
        given = packed_segments(inputs, targets, lengths, (10, 8))
    else:
        placement = packing.place(np.arange(len(inputs)), num_rows=len(inputs))
        given = convert.Segments(inputs=inputs, targets=targets, placement=placement, packed=False)
    check(convert.encoder_decoder(given, 10, 8), want)


@pytest.mark.parametrize(
    ("name", "loss_on_inputs"),
    [("prefixlm_pack0", False), ("prefixlm_pack1", False), ("prefixlm_allloss_pack1", True)],
)
def test_prefix_lm_is_seqios(shared, name, loss_on_inputs):
    inputs, targets, want = golden(shared, name)
    given = packed_segments(inputs, targets, (inputs.lengths + targets.lengths)[:, None], (16,))
    if name.endswith("0"):
        placement = packing.place(np.arange(len(inputs)), num_rows=len(inputs))
        given = convert.Segments(inputs=inputs, targets=targets, placement=placement, packed=False)
    check(convert.prefix_lm(given, 16, loss_on_inputs=loss_on_inputs), want)


def test_lm_is_seqios(shared):
    _, targets, want = golden(shared, "lm_pack1")
    empty = Ragged.from_rows([[]] * len(targets))
    check(
        convert.causal_lm(packed_segments(empty, targets, targets.lengths[:, None], (8,)), 8), want
    )


def test_the_docstring_example():
    batch = convert.encoder_decoder(
        segments(INPUTS, TARGETS, [0, 0], sources=np.array([4, 9])), 9, 6
    )
    want = {
        "encoder_input_tokens": [7, 8, 5, 1, 8, 4, 1, 0, 0],
        "encoder_segment_ids": [1, 1, 1, 1, 2, 2, 2, 0, 0],
        "encoder_positions": [0, 1, 2, 3, 0, 1, 2, 0, 0],
        "decoder_target_tokens": [3, 9, 1, 4, 1, 0],
        "decoder_input_tokens": [0, 3, 9, 0, 4, 0],
        "decoder_loss_weights": [1, 1, 1, 1, 1, 0],
        "decoder_segment_ids": [1, 1, 1, 2, 2, 0],
        "decoder_positions": [0, 1, 2, 0, 1, 0],
        "decoder_source_ids": [4, 4, 4, 9, 9, 0],
    }
    check(batch, {name: np.array([row]) for name, row in want.items()})


def test_prefix_lm_marks_the_inputs_and_one_position_more():
    batch = convert.prefix_lm(segments(INPUTS, TARGETS, [0, 1], packed=False), 9)
    np.testing.assert_array_equal(
        batch["decoder_causal_attention"],
        [[1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0]],
    )
    np.testing.assert_array_equal(batch["decoder_input_tokens"][0], [0, 7, 8, 5, 1, 3, 9, 1, 0])
    np.testing.assert_array_equal(batch["decoder_loss_weights"][0], [0, 0, 0, 0, 1, 1, 1, 0, 0])


def test_prefix_lm_without_targets_marks_its_inputs_alone():
    batch = convert.prefix_lm(segments([[5], [6, 7]], [[8], []], [0, 0]), 5)
    assert batch["decoder_causal_attention"].tolist() == [[1, 1, 1, 1, 0]]
    assert batch["decoder_segment_ids"].tolist() == [[1, 1, 2, 2, 0]]


def test_causal_lm_trains_on_targets_or_on_everything():
    given = segments(INPUTS, TARGETS, [0, 0])
    on_targets, on_all = (
        convert.causal_lm(given, 13, loss_on_inputs=flag)["decoder_loss_weights"][0]
        for flag in (False, True)
    )
    np.testing.assert_array_equal(on_targets, [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(on_all, [1] * 12 + [0])


def test_rows_without_segments_and_empty_sides_are_padding():
    given = convert.Segments(
        inputs=Ragged.from_rows([[], [5, 1]]),
        targets=Ragged.from_rows([[6, 1], []]),
        placement=packing.place(np.array([1, 1]), num_rows=3),
        packed=True,
    )
    batch = convert.encoder_decoder(given, 4, 4)
    np.testing.assert_array_equal(batch["encoder_input_tokens"], [[0] * 4, [5, 1, 0, 0], [0] * 4])
    np.testing.assert_array_equal(batch["encoder_segment_ids"][1], [2, 2, 0, 0])
    np.testing.assert_array_equal(batch["decoder_loss_weights"], [[0] * 4, [1, 1, 0, 0], [0] * 4])


def test_a_side_that_is_empty_keeps_its_number_in_a_packed_row():
    """SeqIO numbers the sides apart: its second targets would attend to the third's inputs."""
    batch = convert.encoder_decoder(segments([[5], [], [6]], [[7], [8], [9]], [0, 0, 0]), 3, 3)
    assert batch["encoder_segment_ids"].tolist() == [[1, 3, 0]]
    assert batch["decoder_segment_ids"].tolist() == [[1, 2, 3]]


def test_id_zero_inside_a_sequence_is_a_token():
    batch = convert.encoder_decoder(segments([[5, 0, 6]], [[0, 7]], [0]), 4, 3)
    np.testing.assert_array_equal(batch["encoder_segment_ids"], [[1, 1, 1, 0]])
    np.testing.assert_array_equal(batch["decoder_loss_weights"], [[1, 1, 0]])


@pytest.mark.parametrize(
    ("tokens", "length", "want"),
    [
        ([5, 6, 7, 1], 4, [5, 6, 7, 1]),
        ([5, 6, 7, 1], 3, [5, 6, 1]),
        ([5, 6, 7, 8], 3, [5, 6, 7]),
        ([5, 1], 0, []),
    ],
)
def test_truncation_keeps_the_final_eos(tokens, length, want):
    given = np.array(tokens, np.int32)
    np.testing.assert_array_equal(convert.truncate(given, length, eos_id=1), want)
    np.testing.assert_array_equal(given, tokens)
    other = np.where(given == 1, 77, given)
    cut = convert.truncate(other, length, eos_id=77)
    np.testing.assert_array_equal(cut, np.where(np.array(want) == 1, 77, want))


def test_too_long_segments_name_row_and_lengths():
    with pytest.raises(ValueError, match="Row 0 would hold 7 tokens of inputs, its length is 6"):
        convert.encoder_decoder(segments(INPUTS, TARGETS, [0, 0]), 6, 6)
