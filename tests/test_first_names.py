"""The first of many names, for messages."""

from ul2tune.first_names import first_names


def test_what_is_left_out_is_counted():
    assert first_names([]) == ""
    assert first_names("abcde") == "a, b, c, d, e"
    assert first_names("abcdef") == "a, b, c, d, e and 1 more"
    assert first_names((number for number in range(2000)), 2) == "0, 1 and 1,998 more"
