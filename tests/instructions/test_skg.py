"""UnifiedSKG's linearisers, loaders and configurations: cases by hand, and the authors' prompts."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing

import pytest

from ul2tune.data import vocab, vocab_extended
from ul2tune.instructions.skg import dialogue, prompt, tables
from ul2tune.instructions.skg import schema as skg_schema
from ul2tune.instructions.skg import triples as skg_triples
from ul2tune.instructions.skg import values as skg_values
from ul2tune.instructions.skg.tables import Table
from ul2tune.metrics.sql_schema import DatabaseSchema

GAMES = Table(
    header=("Year", "City"),
    rows=(("1896", "Athens"), ("1900", "Paris"), ("1904", "St. Louis"), ("1908", "London")),
)
SHOP = {
    "db_id": "shop_1",
    "table_names_original": ["Item", "Sale"],
    "column_names_original": [[-1, "*"], [0, "Item_ID"], [0, "Name"], [1, "Item_ID"], [1, "Year"]],
    "foreign_keys": [[3, 1]],
    "primary_keys": [1],
}


class Words:
    """A vocabulary of whole words."""

    def encode(self, text: str) -> list[int]:
        self.words = getattr(self, "words", [])
        for word in text.split():
            if word not in self.words:
                self.words.append(word)
        return [self.words.index(word) for word in text.split()]

    def decode(self, ids) -> str:
        return " ".join(self.words[token] for token in ids)


def test_prompt():
    compose = prompt.compose
    assert compose("q", "s") == "q ; structured knowledge: s"
    assert compose("", "s") == "structured knowledge: s"
    assert compose("u || v | w || x", "s") == "u ; structured knowledge: s ; context: v | w || x"
    assert compose("q", "s", description="task: t") == "task: t ; q ; structured knowledge: s"
    assert compose("q || c", "s", knowledge="separate") == "q ; context: c"
    assert compose("", "s", knowledge="separate") == ""
    assert compose("", "s", knowledge="separate", description="d") == "d ; "
    with pytest.raises(ValueError, match="'mixed'"):
        compose("q", "s", knowledge="mixed")  # type: ignore[arg-type]


def test_table():
    assert tables.linearize(GAMES) == (
        "col : Year | City row 1 : 1896 | Athens row 2 : 1900 | Paris "
        "row 3 : 1904 | St. Louis row 4 : 1908 | London"
    )
    assert tables.linearize(Table(header=("", "a"), rows=(("x", ""),))) == (
        "col :  | a row 1 : x |"
    )
    assert tables.linearize(Table(header=("a",), rows=())) == "col : a"


def test_cells_are_cut_and_so_are_the_answers_in_them():
    table = Table(header=("a",), rows=(("one two three",), ("one",), ("  ",)))
    cut, answers = tables.truncate(
        table, "q", ("one two three", "two"), tokenizer=Words(), rng=random.Random(0), cell_tokens=2
    )
    assert cut.rows == (("one two",), ("one",), ("  ",))
    assert answers == ("one two", "two")


def test_cells_are_cut_as_transformers_cuts_them(shared):
    """Its T5 tokenizer strips what it joins, and is as yet without the tokens that are added."""
    t5 = vocab.load(
        shared / "data/tokenizer/sentencepiece_cc_all.32000.100extra-sentencepiece.model"
    )
    cells = ("a " * 14 + "京", "x <= " * 9)
    table = Table(header=("a",), rows=tuple((cell,) for cell in cells))
    for tokenizer in (t5, vocab_extended.extend(t5, prompt.ADDED_TOKENS)):
        cut, answers = tables.truncate(
            table, "q", cells[:1], tokenizer=tokenizer, rng=random.Random(0)
        )
        assert cut.rows == (("a a a a a a a",), ("x <= x <= x <=",))
        assert answers == ("a a a a a a a",)


def test_rows_are_deleted_at_random_and_then_from_the_end():
    rows = tuple((str(n), "x") for n in range(40))
    table = Table(header=("n", "x"), rows=rows)

    def truncate(seed: int, request: str, answers=(), budget: int = 120) -> list[int]:
        words, rng = Words(), random.Random(seed)
        cut, _ = tables.truncate(
            table, request, answers, tokenizer=words, rng=rng, max_tokens=budget
        )
        tokens = sum(len(words.encode(part)) for part in (request, tables.linearize(cut)))
        assert tokens <= budget
        return [int(row[0]) for row in cut.rows]

    kept = truncate(0, "q")
    assert kept == truncate(0, "q")
    assert kept != truncate(1, "q")
    assert kept == sorted(kept)
    # Rows near one that is asked about, or that is the answer, are not drawn.
    assert {3, 4, 5, 6, 7} <= set(truncate(0, "what is 5 ?"))
    assert {3, 4, 5, 6, 7} <= set(truncate(0, "q", ("5",)))
    # With all rows protected, the end goes.
    assert truncate(0, "the x", budget=64) == list(range(len(truncate(0, "the x", budget=64))))
    long, _ = tables.truncate(
        table, "q " * 200, tokenizer=Words(), rng=random.Random(0), max_tokens=200
    )
    assert long.rows == ()
    assert truncate(0, "q", budget=10_000) == list(range(40))


def test_draws_are_python_randoms():
    table = Table(header=("n",), rows=tuple((str(n),) for n in range(20)))
    # 20 rows of 4 tokens, a budget of 43 beside header and request: int(20 * (1 - 40 / 80)) = 10.
    cut, _ = tables.truncate(table, "q", tokenizer=Words(), rng=random.Random(7), max_tokens=44)
    dropped = set(random.Random(7).choices(range(20), k=10))
    left = [n for n in range(20) if n not in dropped][:10]
    assert [int(row[0]) for row in cut.rows] == left


def test_triples():
    triples = [["Mars Hill", "IS_IN", "NC"], ["NC", "[TITLE]", "List"]]
    assert skg_triples.linearize(triples) == "Mars Hill : is_in : NC | NC : [title] : List"


def test_dialogue():
    assert dialogue.history(["Hi "], ["none"]) == "hi  || none | "
    assert dialogue.history(["Hi", "b ", "C"], ["none", "1", " 2"]) == (
        "c ||  2 | b | 1 | hi | none"
    )
    with pytest.raises(ValueError, match="1 user and 0 system"):
        dialogue.history(["a"], [])
    ontology = {"hotel-area": ["North", "south"], "police-name": [], "train-leave At": []}
    assert dialogue.linearize({"hotel-area": ["North", "south"], "taxi-day": []}) == (
        "hotel-area: north, south; taxi-day: none; "
    )
    assert dialogue.slots_of(ontology) == ("hotel-area", "train-leaveat")
    slots = ("hotel-area", "hotel-book people")
    assert dialogue.target(slots, {"hotel-book people": " 2"}) == (
        "hotel area none, hotel book people 2"
    )


def test_schema():
    schema = DatabaseSchema.from_json(SHOP)
    assert skg_schema.linearize(schema) == (
        "| shop_1 | item : item_id , name | sale : item_id , year"
    )

    def values(db_id: str, table: str, column: str) -> list[str]:
        return ["Red Chair", "Lamp", "red chair"] if column == "Name" else []

    question = "How many red chairs or lamps? A Red Chair."
    assert skg_schema.linearize(schema, question, values) == (
        "| shop_1 | item : item_id , name ( Red Chair ) | sale : item_id , year"
    ).replace(
        "Red Chair", " , ".join(skg_values.match_values(question, values("", "", "Name"), "Name"))
    )
    assert skg_schema.describe(schema) == (
        "shop_1 contains tables such as item, sale. Table item has columns such as item_id, name. "
        "item_id is the primary key. Table sale has columns such as item_id, year.  is the primary "
        "key. The year of sale is the foreign key of name of item."
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT  Name ,  Age FROM T", "select name, age from t"),
        ("SELECT A WHERE b  =  'Welcome To NY'", "select a where b = 'Welcome to NY'"),
        ('SELECT A WHERE b = "Live"', 'select a where b = "Live"'),
        ("A,B ,C , D", "a,b ,c, d"),
    ],
)
def test_sql_targets(query, expected):
    assert skg_schema.normalize_sql(query) == expected


@pytest.mark.parametrize(
    ("question", "values", "column", "expected"),
    [
        ("Who is from France?", ["France", "Germany"], "country", ["France"]),
        ("Who is from france?", ["France"], "country", ["France"]),
        ("All French singers", ["France"], "country", []),
        ("Is Joseph here", ["Josef"], "first", []),
        ("Where is Aberdeens harbour", ["Aberdeen"], "city", ["Aberdeen"]),
        ("Where is Aberdeens harbour", ["Aberdeen"], "city_name", []),
        ("the year 2014", ["2014"], "year", []),
        ("which of the", ["the", "Which"], "a", []),
        ("ship to New York, or York", ["York", "New York"], "a", ["New York", "York"]),
        ("", ["x"], "a", []),
        ("Mary's id", ["Mary", "id"], "a", ["Mary"]),
    ],
)
def test_values_that_a_question_mentions(question, values, column, expected):
    assert skg_values.match_values(question, values, column) == expected


def test_values_are_read_from_the_database(tmp_path):
    (tmp_path / "shop").mkdir()
    with closing(sqlite3.connect(tmp_path / "shop" / "shop.sqlite")) as base, base:
        base.execute('create table "it""em" (name text, price real, "a`b" text)')
        rows = [("b", 1, "x"), ("a", 2, "x"), ("b", None, "x")]
        base.executemany('insert into "it""em" values (?, ?, ?)', rows)
    values = skg_values.DatabaseValues(tmp_path)
    assert values("shop", 'it"em', "name") == ("a", "b")
    assert values("shop", 'it"em', "price") == ()
    assert values("shop", 'it"em', "a`b") == ("x",)
    for table, column in (("nothing", "name"), ('it"em', "nothing")):
        with pytest.raises(ValueError, match=f"shop.sqlite: cannot read {table}.{column}"):
            values("shop", table, column)
    with pytest.raises(ValueError, match="does not exist"):
        values("other", "item", "name")
