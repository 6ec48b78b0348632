"""Spider's exact set match: cases by hand, the published example, and hostile predictions."""

from __future__ import annotations

import json
import time

import pytest
from nltk.tokenize.destructive import NLTKWordTokenizer

from ul2tune.metrics import registry, spider, sql_parse
from ul2tune.metrics.references import References
from ul2tune.metrics.sql_schema import DatabaseSchema, load_schemas
from ul2tune.metrics.sql_tokens import SqlError, split_words, tokenize

SHOP = DatabaseSchema(
    db_id="shop",
    tables=("Item", "Sale", "City"),
    columns=(
        *((-1, "*"), (0, "Item_ID"), (0, "Name"), (0, "Price")),
        *((1, "Item_ID"), (1, "City_ID"), (1, "Year"), (2, "City_ID"), (2, "Name")),
    ),
    foreign_keys=((4, 1), (5, 7)),
    primary_keys=(1, 7),
)
JOINED = "select t1.name from item as t1 join sale as t2 on t1.item_id = t2.item_id"


def judged(gold: str, prediction: str) -> tuple[bool, bool]:
    judgement = spider.judge(gold, prediction, SHOP)
    return judgement.exact, judgement.exact_tables


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [
        ("select name, price from item", "SELECT price ,  name FROM Item ;"),
        ("select name from item where price > 3", "select name from item where price > 'x'"),
        ("select distinct name from item", "select name from item"),
        (
            "select name from item where price > 3 and name = 'a'",
            "select name from item where name = 'b' and price > 7",
        ),
        (f"{JOINED} group by t1.item_id", f"{JOINED} group by t2.item_id"),
        (
            "select name from item order by price limit 1",
            "select name from item order by price asc limit 3",
        ),
        (
            "select name from item where item_id in (select item_id from sale where year = 1)",
            "select name from item where item_id in (select item_id from sale where year = 2)",
        ),
        (
            "select name from item union select name from city",
            "select name from item union select city.name from city",
        ),
    ],
)
def test_equal_queries(gold, prediction):
    assert judged(gold, prediction) == (True, True)
    assert judged(prediction, gold) == (True, True)


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [
        ("select name from item", "select price from item"),
        ("select max(price) from item", "select min(price) from item"),
        ("select name from item where price > 3", "select name from item where price >= 3"),
        (
            "select name from item where price > 3 or price < 1",
            "select name from item where price > 3 and price < 1",
        ),
        ("select name from item order by price", "select name from item order by price desc"),
        ("select name from item order by price", "select name from item order by price limit 1"),
        # Nested queries are compared as they are written.
        (
            "select name from item where item_id in (select distinct item_id from sale)",
            "select name from item where item_id in (select item_id from sale)",
        ),
        ("select name from item", "select nme from item"),
        ("select name from item", ""),
    ],
)
def test_different_queries(gold, prediction):
    assert judged(gold, prediction) == (False, False)


def test_a_single_table_counts_since_october_2018():
    assert judged("select count(*) from item", "select count(*) from sale") == (True, False)
    joined = "select count(*) from item join sale"
    assert judged(joined, "select count(*) from item join city") == (False, False)


@pytest.mark.parametrize(
    ("query", "level"),
    [
        ("select name from item", "easy"),
        ("select name from item where price > 3", "easy"),
        ("select name, price from item where price > 3", "medium"),
        ("select name from item where price > 3 order by price", "medium"),
        ("select name from item where item_id not in (select item_id from sale)", "hard"),
        ("select name from item union select name from city", "hard"),
        (
            "select name, price from item where price > 3 union select name, name from city",
            "extra",
        ),
    ],
)
def test_hardness(query, level):
    assert spider.hardness(sql_parse.parse(query, SHOP)) == level


def test_tokens_have_the_word_tokenizers_oddities():
    assert tokenize("SELECT a FROM t WHERE b>='X y'") == [
        *("select", "a", "from", "t", "where", "b", ">", "=__val_25_29__"),
    ]
    assert tokenize("b >= 'X y'") == ["b", ">=", '"X y"']
    assert tokenize("a,1 a, b count(*)") == ["a,1", "a", ",", "b", "count", "(", "*", ")"]
    assert tokenize("cannot x.") == ["can", "not", "x", "."]


def test_tokens_equal_nltks():
    reference = NLTKWordTokenizer()
    pieces = [*",,:..;;@?!*()<>{}-=+/` ab1\n", "cannot", "wanna ", "t1.a", "--", "...", "1,2", "”"]
    for seed in range(500):
        text = "".join(pieces[(seed * 7919 + k * k * 104729) % len(pieces)] for k in range(9))
        assert split_words(text) == reference.tokenize(text), text


DEEP = "select name from item where item_id in ("


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("select name from item where name = 'x", "quote is not closed"),
        ("select name from nowhere", "no table"),
        ("select nothing from item", "no column"),
        ("select name", "no 'from'"),
        ("select name from item where", None),  # read as no condition at all
        ("select name from item where price ~ 3", "expected a comparison"),
        ("select name from item limit many", "no whole number"),
        ("select t.name from item as", "ends after 'as'"),
        ("select city.name from item as city", "is the name of a table"),
        (DEEP * 200 + "select name from item" + ")" * 200, "nested more than"),
        ("(" * 5000 + "select name from item" + ")" * 5000, None),
        ("select name from item " * 100_000, "the limit is"),
        (" union ".join(["select name from item"] * 100), "nested more than"),
        ("select " + "name , " * 10_000 + "name from item", None),
        ("'" * 90_000, None),
        ("\x00\ud800", "no 'from'"),
    ],
)
def test_hostile_predictions_are_wrong_and_cheap(query, reason):
    start = time.monotonic()
    judgement = spider.judge("select count(*) from item", query, SHOP)
    assert time.monotonic() - start < 2.0
    assert not judgement.exact
    if reason:
        assert reason in judgement.error
        assert len(judgement.error) < 200


def test_conditions_without_connectors_do_not_crash():
    odd = "select name from item where price = 1 price = 2 or price = 3"
    assert judged("select name from item where price = 1", odd) == (False, False)


def test_gold_must_parse():
    with pytest.raises(SqlError, match="no column 'nothing'"):
        spider.judge("select nothing from item", "select name from item", SHOP)


def test_predictions_with_the_database_in_front_are_read_without_it():
    context = {"query": "select count(*) from item", "schema": SHOP.to_json()}
    plain = References(["x"], json.dumps(context))
    named = References(["x"], json.dumps({**context, "db_id_in_target": True}))
    for prediction in ("shop | SELECT count(*) FROM item", "shop|SELECT count(*) FROM item"):
        assert spider.score_spider_exact_match(prediction, named) == 1.0
        assert spider.score_spider_exact_match(prediction, plain) == 0.0
    assert spider.score_spider_exact_match("SELECT count(*) FROM item", named) == 1.0


def test_scores_read_the_context():
    context = json.dumps({"query": "select count(*) from item", "schema": SHOP.to_json()})
    references = References(["whatever"], context)
    score = registry.SCORES["spider_exact_match"]
    assert score("select count(*) from sale", references) == 1.0
    assert (
        registry.SCORES["spider_exact_match_tables"]("select count(*) from sale", references) == 0
    )
    got = spider.spider_exact_match([references] * 2, ["select count(*) from item", "select"])
    assert got["spider_exact_match"] == 50.0
    assert got["spider_exact_match_tables_easy"] == 50.0
    with pytest.raises(ValueError, match="needs more than references"):
        score("select count(*) from sale", ["select count(*) from item"])


def test_a_bad_schema_names_file_and_reason(tmp_path):
    file = tmp_path / "tables.json"
    file.write_text('[\n{"db_id": "a",\n')
    with pytest.raises(ValueError, match=r"tables.json:3: not valid JSON"):
        load_schemas(file)
    entry = SHOP.to_json() | {"foreign_keys": [[1, 99]]}
    file.write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match="entry 0: schema of 'shop': 'foreign_keys'"):
        load_schemas(file)
    file.write_text(json.dumps([SHOP.to_json()] * 2))
    with pytest.raises(ValueError, match="is there twice"):
        load_schemas(file)


def test_files_are_scored_with_file_and_line(tmp_path):
    (tmp_path / "tables.json").write_text(json.dumps([SHOP.to_json()]))
    (tmp_path / "gold").write_text("select name from item\tshop\nselect x from item\tshop\n")
    (tmp_path / "pred").write_text("select name from item\nselect x\n")
    with pytest.raises(ValueError, match=r"gold:2: the gold query does not parse: no column 'x'"):
        spider.score_files(*(tmp_path / name for name in ("gold", "pred", "tables.json")))


def test_a_line_of_a_file_ends_where_the_reference_ends_it(tmp_path):
    (tmp_path / "tables.json").write_text(json.dumps([SHOP.to_json()]))
    query = 'select name from item where name = "a\u2028b\x85c\x0cd"'
    (tmp_path / "gold").write_bytes(f"{query}\tshop\r\n\n{query}\tshop".encode())
    (tmp_path / "pred").write_text(f"{query}\n{query}\n", encoding="utf-8")
    table = spider.score_files(*(tmp_path / name for name in ("gold", "pred", "tables.json")))
    assert (table["all"]["count"], table["all"]["exact_tables"]) == (2, 1.0)


def test_published_example(shared):
    """Spider's own example: counts, both kinds of accuracy, and every number of its table."""
    folder = shared / "data" / "unifiedskg" / "spider"
    table = spider.score_files(
        folder / "gold_example.txt", folder / "pred_example.txt", folder / "tables_dev_dbs.json"
    )
    levels = ("easy", "medium", "hard", "extra", "all")
    assert [table[level]["count"] for level in levels] == [250, 440, 174, 170, 1034]
    published = (folder / "eval_result_example.txt").read_text().splitlines()
    rows = [line.split() for line in published if line[:1].isalpha() and ":" not in line]
    numbers = [[float(x) for x in row[-5:]] for row in rows if row[0] != "count"]
    ours = [[table[level]["exact"] for level in levels]]
    for kind in ("acc", "rec", "f1"):
        for name in table["all"]["partial"]:
            ours.append([table[level]["partial"][name][kind] for level in levels])
    assert [[round(x, 3) for x in row] for row in ours] == numbers
    assert len(numbers) == 31
    assert numbers[0] == [0.968, 0.72, 0.718, 0.388, 0.725]
    assert round(table["all"]["exact_tables"], 3) == 0.697
