"""Options and dialogues in the fixed form and in random styles."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from ul2tune.instructions import options
from ul2tune.instructions.options import Style, Styles

LETTERS = tuple(f"\n{letter}) " for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
DASHES = ("\n- ",) * 26
PLAIN = ("",) * 26
STYLES = Styles(starts=("Pick:", "", "Pick:"), names=(LETTERS, DASHES, LETTERS), ends=(PLAIN,))


def style(names=LETTERS, start="Pick:", ends=(";",) * 26) -> Style:
    return Style(start=start, names=names, ends=ends)


def test_the_fixed_forms():
    assert options.plain_options(["a", "b"]) == "OPTIONS:\n- a\n- b"
    assert options.plain_dialog(["Hi", "Yes?", "No"]) == "DIALOG:\nHi\n- Yes?\n- No\n- "


def test_an_answer_becomes_the_name_of_its_option():
    styled = options.styled_options(["yes", "no "], " no", style())
    assert styled.text == "Pick:\nA) yes;\nB) no ;"
    assert (styled.answer, styled.choices) == ("B)", ("A)", "B)"))


def test_an_answer_stays_where_names_tell_nothing_or_it_is_no_option():
    assert options.styled_options(["yes", "no"], "no", style(DASHES)).answer == "no"
    styled = options.styled_options(["yes", "no"], "perhaps", style())
    assert (styled.answer, styled.choices) == ("perhaps", ("yes", "no"))


def test_a_style_names_26_options():
    assert options.styled_options(["x"] * 26, "x", style()).answer == "A)"
    with pytest.raises(ValueError, match="up to 26 options, got 27"):
        options.styled_options(["x"] * 27, "x", style())


def test_a_dialogue_ends_with_the_mark_of_the_next_speaker():
    speakers = ("\nA: ", "\nB: ") * 2
    text = options.styled_dialog(["Hi", "Yes?"], Style(start="D:", names=speakers, ends=("",) * 4))
    assert text == "D:\nA: Hi\nB: Yes?\nA: "
    with pytest.raises(ValueError, match="room for 3 turns, got 4"):
        options.styled_dialog(["x"] * 4, Style(start="", names=speakers, ends=("",) * 4))


def test_draws_are_independent_and_reproducible():
    styles = Styles(starts=("a", "b"), names=(LETTERS, DASHES), ends=(PLAIN, (";",) * 26))
    assert styles.draw(0, "t", "r1") == styles.draw(0, "t", "r1")
    draws = [styles.draw(0, "t", f"r{i}") for i in range(1600)]
    counts = Counter((d.start, d.names, d.ends) for d in draws)
    # Eight combinations, 200 each; sigma is 13.
    assert len(counts) == 8
    assert all(abs(count - 200) < 55 for count in counts.values())


def test_repeated_candidates_count_once_by_default(tmp_path):
    path = tmp_path / "formats.json"
    data = {
        "OPT_START_STRING_CANDIDATES": ["", "Pick:"],
        "OPT_ITEM_NAME_CANDIDATES": [
            {"repeat": ["\n- "]},
            {"items": list(LETTERS)},
            {"repeat": ["\n- "]},
        ],
        "OPT_ITEM_END_STR_CANDIDATES": [{"repeat": [""]}],
        "DIALOG_START_STRING_CANDIDATES": ["", "CONVERSATION:Conversation:"],
        "DIALOG_ITEM_NAME_CANDIDATES": [{"repeat": ["\nA: ", "\nB: "]}],
        "DIALOG_ITEM_END_STR_CANDIDATES": [{"repeat": [""]}],
    }
    path.write_text(json.dumps(data))
    sound, authors = options.load_formats(path), options.load_formats(path, compat=True)
    assert (len(sound.options.names), len(authors.options.names)) == (2, 3)
    assert sound.dialogs.starts == ("", "CONVERSATION:", "Conversation:")
    assert len(authors.dialogs.starts) == 2
    assert sound.dialogs.names[0][:3] == ("\nA: ", "\nB: ", "\nA: ")
    for key, value, message in (
        ("OPT_ITEM_NAME_CANDIDATES", [{"items": ["a"]}], r"\[0\]: 'items' needs 26 strings"),
        ("OPT_ITEM_NAME_CANDIDATES", [["a"]], r'\[0\]: expected {"items"'),
        ("OPT_START_STRING_CANDIDATES", [3], "must be a list of strings"),
        ("DIALOG_START_STRING_CANDIDATES", None, "must be a list that is not empty"),
    ):
        path.write_text(json.dumps({**data, key: value}))
        with pytest.raises(ValueError, match=message):
            options.load_formats(path)


def test_the_authors_candidates_are_as_many_as_specified(shared):
    path = shared / "data" / "flan" / "v2_option_dialog_formats.json"
    authors, sound = options.load_formats(path, compat=True), options.load_formats(path)
    sizes = [
        [len(part) for styles in (f.options, f.dialogs) for part in vars(styles).values()]
        for f in (authors, sound)
    ]
    assert sizes == [[16, 87, 3, 13, 50, 3], [16, 63, 3, 14, 49, 3]]
