"""Which values of a database does a question mention? (BRIDGE's fuzzy matching.)

Source: Lin et al. 2020 (arXiv:2012.12627), as PICARD and UnifiedSKG use it: the longest common
substring of question and value is widened to whole words, which must resemble the value.

DIVERGES: the reference goes through values in the order of a Python set, which differs between
processes, so that ties between equally good matches fall differently every time, and a column is
skipped or not by the type of whichever value comes first. Here values are sorted, and a column
counts if it has any text.
"""

from __future__ import annotations

import difflib
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from ul2tune.instructions.reading import inside

THRESHOLD = 0.85
MAX_VALUES = 2
# Steps of SQLite's virtual machine: a column of Spider's largest tables takes some millions.
_MAX_STEPS, _STEPS = 200_000_000, 100_000

_SEPARATORS = "'\"()`,.?! "
# Values and mentions that match by chance.
_COMMON = frozenset({"no", "yes", "many"})
_STOP = """
    a about above after again against ain all am an and any are aren aren't as at be because been
    before being below between both but by can couldn couldn't d did didn didn't do does doesn
    doesn't doing don don't down during each few for from further had hadn hadn't has hasn hasn't
    have haven haven't having he her here hers herself him himself his how i if in into is isn isn't
    it it's its itself just ll m ma me mightn mightn't more most mustn mustn't my myself needn
    needn't nor not now o of off on once only or other our ours ourselves out over own re s same
    shan shan't she she's should should've shouldn shouldn't so some such t than that that'll the
    their theirs them themselves then there these they this those through to too under until up ve
    very was wasn wasn't we were weren weren't what when where which while who whom why will with
    won won't wouldn wouldn't y you you'd you'll you're you've your yours yourself
    yourselves"""
_STOP_WORDS = frozenset(_STOP.split())


def match_values(question: str, values: Sequence[str], column: str = "") -> list[str]:
    """The values that the question mentions, best first, at most `MAX_VALUES`.

    Args:
      question: in its own case.
      values: of one column.
      column: its name; in a column of names, only whole mentions count.
    """
    letters = [char.lower() for char in question.strip()]
    matched: dict[str, tuple[float, float, str]] = {}
    for value in sorted(set(values)):
        found = _mention(question, letters, value)
        if found is not None:
            # Values that share the matched text replace each other.
            score, size, text = found
            # NUMERICS: the reference's sum, in which float64 rounds sizes that differ by one away.
            matched[text] = (1e16 * score + 1e8 * score + size, score, value)
    # Stable: of equally good ones the first stays first.
    ranked = sorted(matched.values(), key=lambda match: match[0], reverse=True)
    kept = [value for _, score, value in ranked if score >= 1 or "name" not in column]
    return kept[:MAX_VALUES]


class DatabaseValues:
    """Texts in the columns of SQLite files laid out as Spider's: folder/<db_id>/<db_id>.sqlite.

    Every column is read once and kept.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self._columns: dict[tuple[str, str, str], tuple[str, ...]] = {}

    def fingerprint(self) -> Mapping[str, int]:
        """Sizes of the files: what `identity` takes for their content."""
        files = sorted(self._folder.glob("*/*.sqlite"))
        return {file.stem: file.stat().st_size for file in files}

    def __call__(self, db_id: str, table: str, column: str) -> tuple[str, ...]:
        """Distinct texts of a column.

        Raises:
          ValueError: if the file is not there or has no such column.
        """
        key = (db_id, table, column)
        if key not in self._columns:
            self._columns[key] = self._read(*key)
        return self._columns[key]

    def _read(self, db_id: str, table: str, column: str) -> tuple[str, ...]:
        file = inside(self._folder, db_id, f"{db_id}.sqlite")
        if not file.is_file():
            raise ValueError(f"{file} does not exist; cell values are read from it.")
        # In double quotes SQLite takes the name of a column that is not there for a string.
        names = [name.replace("`", "``") for name in (column, table)]
        query = "SELECT DISTINCT `{}` FROM `{}`".format(*names)
        try:
            # Read-only: opening must not create or lock anything.
            with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as base:
                base.text_factory = bytes
                # A table may be a view that never ends.
                patience = iter(range(_MAX_STEPS // _STEPS))
                base.set_progress_handler(lambda: next(patience, None) is None, _STEPS)
                rows = [row[0] for row in base.execute(query)]
        except sqlite3.Error as error:
            raise ValueError(f"{file}: cannot read {table}.{column}: {error}.") from error
        return tuple(sorted(_text(value) for value in rows if isinstance(value, bytes)))


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _mention(question: str, letters: Sequence[str], value: str) -> tuple[float, int, str] | None:
    """(similarity, size, matched text of the value) if the question mentions it."""
    value_letters = [char.lower() for char in value.strip()]
    matcher = difflib.SequenceMatcher(None, letters, value_letters)
    match = matcher.find_longest_match(0, len(letters), 0, len(value_letters))
    span = _words_around(letters, match.a, match.a + match.size) if match.size else None
    if span is None or span[1] - span[0] < 2:
        return None
    part = value[match.b : match.b + match.size]
    mention = question[span[0] : span[1]].lower().strip()
    text, whole = part.lower().strip(), value.lower().strip()
    words = {text, mention, whole}
    if not text or _is_number(text) or text == "id" or words & _STOP_WORDS:
        return None
    if mention.endswith(text + "'s"):
        score = 1.0
    else:
        score = similarity(whole, mention) if _same_start(whole, mention) else 0.0
    if score < THRESHOLD or (score < 1 and (words & _COMMON or value.isupper())):
        return None
    return score, match.size, part


def similarity(a: str, b: str) -> float:
    """1 - insertions and deletions over length: twice the longest common subsequence by length.

    What rapidfuzz calls `ratio`, as a fraction.
    """
    if not a and not b:
        return 1.0
    row = [0] * (len(b) + 1)
    for char in a:
        previous, diagonal = row, 0
        row = [0]
        for index, other in enumerate(b, start=1):
            diagonal = previous[index - 1]
            row.append(diagonal + 1 if char == other else max(previous[index], row[-1]))
    return 2.0 * row[-1] / (len(a) + len(b))


def _words_around(letters: Sequence[str], start: int, end: int) -> tuple[int, int] | None:
    """Widens a match by at most a character in front and two behind, to the borders of words."""
    first = next((i for i in (start, start - 1) if i < 0 or letters[i] in _SEPARATORS), None)
    if first is None:
        return None
    first = max(first, 0)
    reach = range(end - 1, end + 3)
    last = next((i for i in reach if i >= len(letters) or letters[i] in _SEPARATORS), None)
    if last is None:
        return None
    last = min(last, len(letters) - 1)
    while first < len(letters) and letters[first] in _SEPARATORS:
        first += 1
    while last >= 0 and letters[last] in _SEPARATORS:
        last -= 1
    return first, last + 1


def _same_start(a: str, b: str) -> bool:
    """Whether the first letters that are no separators agree; without any, the last ones do."""
    starts = [text.lstrip(_SEPARATORS)[:1] or text[-1:] for text in (a, b)]
    return bool(starts[0] and starts[1]) and starts[0] == starts[1]


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
