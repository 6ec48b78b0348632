"""What of a preprocessor's source code counts."""

import textwrap

import pytest

from ul2tune.prepare.identity import identity, without_prose

PLAIN = '''
class Doubles:
    name = "# no comment"

    def __call__(self, text):
        lines = """one

        # two"""
        return (
            text
            + text
            + lines
        )
'''
# The same with words about it.
DOCUMENTED = '''
class Doubles:  # a class
    """What it does.

    At length: é.
    """
    name = "# no comment"  # ä

    # A comment between methods.
    def __call__(self, text):
        """Doubles a text."""
        lines = """one

        # two"""
        # Why.
        return (
            text  # once
            + text
            + lines
        )
'''


def test_comments_and_docstrings_do_not_count():
    assert without_prose(DOCUMENTED) == PLAIN
    assert without_prose(textwrap.indent(PLAIN, "    ")) == PLAIN


@pytest.mark.parametrize(
    ("old", "new"),
    [("+ text", "+ 2"), ("# two", "# three"), ("no comment", "none"), ("one\n\n", "one\n")],
)
def test_everything_else_does(old, new):
    changed = DOCUMENTED.replace(old, new, 1)
    assert changed != DOCUMENTED
    assert without_prose(changed) != PLAIN


@pytest.mark.parametrize(
    "source",
    [
        "def f(): '''Of one line.'''",
        "def f(\n    first, *, times=2): 'Of the last line.'",
        "def f():\n    '''Before\n    code.'''; return 1",
        "key=lambda text: text),  # a",
    ],
)
def test_what_has_no_lines_of_its_own_stays(source):
    assert without_prose(source) == source


def double(number):
    return 2 * number


def documented():
    def double(number):  # once more
        """Twice a number."""
        return 2 * number

    return double


def test_an_identity_is_of_the_code():
    again = documented()
    again.__qualname__ = double.__qualname__
    assert identity(again) == identity(double)
