"""Conversations: both forms of files, a record per reply, budgets, formats."""

from __future__ import annotations

import json

import pytest

from ul2tune.data.vocab import ByteVocabulary
from ul2tune.instructions import chat
from ul2tune.instructions.chat import ChatFormat, Message
from ul2tune.instructions.row_files import RowFile

TURNS = [
    ("system", "Be brief."),
    ("user", "Hi "),
    ("assistant", " Hello"),
    ("user", "Bye"),
    ("assistant", "So long"),
]
MESSAGES = {"messages": [{"role": role, "content": text} for role, text in TURNS]}
SHARED = {
    "id": "talk",
    "system": "Be brief.",
    "conversations": [
        {"from": {"user": "human", "assistant": "gpt"}[role], "value": text}
        for role, text in TURNS[1:]
    ],
}


def parsed(row):
    return chat.parse(row, "f:1", "f-1")


def test_a_record_per_reply():
    first, last = parsed(MESSAGES)
    assert (first.id, first.input, first.targets) == ("f-1-2", "Hi ", (" Hello",))
    assert chat.history_of(first) == (Message("system", "Be brief."), Message("user", "Hi "))
    assert (last.id, last.input, last.targets) == ("f-1-4", "Bye", ("So long",))
    assert len(chat.history_of(last)) == 4
    assert chat.parse_last(MESSAGES, "f:1", "f-1") == (last,)


def test_sharegpt_says_the_same():
    ours, theirs = parsed(MESSAGES), parsed(SHARED)
    assert [chat.render(r) for r in ours] == [chat.render(r) for r in theirs]
    assert [r.id for r in theirs] == ["talk-2", "talk-4"]


@pytest.mark.parametrize(("given", "name"), [(0, "0"), (17, "17"), ("17", "17"), ("", "f-1")])
def test_ids(given, name):
    assert [r.id for r in parsed({**MESSAGES, "id": given})] == [f"{name}-2", f"{name}-4"]


@pytest.mark.parametrize(("given", "shown"), [(True, "True"), ([1], r"\[1\]"), (1.5, "1.5")])
def test_ids_that_are_none(given, shown):
    with pytest.raises(ValueError, match=f"f:1: 'id' must be a string or an integer, got {shown}"):
        parsed({**MESSAGES, "id": given})


def test_turns_are_all_or_the_last():
    records = {turns: chat.parser(turns)(MESSAGES, "file:1", "t") for turns in ("all", "last")}
    assert [len(found) for found in records.values()] == [2, 1]
    with pytest.raises(ValueError, match=r"turns is 'first': use 'all' or 'last'\."):
        chat.parser("first")  # type: ignore[arg-type]


def test_plain_style():
    texts = [chat.render(record) for record in parsed(MESSAGES)]
    assert [(t.inputs, t.targets) for t in texts] == [
        ("Be brief.\n\nUser: Hi\nAssistant: ", "Hello"),
        ("Be brief.\n\nUser: Hi\nAssistant: Hello\nUser: Bye\nAssistant: ", "So long"),
    ]


def test_format():
    style = ChatFormat(
        system=("<<", ">>"),
        user=("[u]", "[/u]"),
        assistant=("[a]", "[/a]"),
        reply_end="[/a]",
        strip=False,
    )
    text = chat.render(parsed(MESSAGES)[1], style=style)
    assert text.inputs == "<<Be brief.>>[u]Hi [/u][a] Hello[/a][u]Bye[/u][a]"
    assert text.targets == "So long[/a]"


def test_a_reply_that_nobody_asked_for_is_history():
    row = {"conversations": [{"from": "gpt", "value": "Welcome"}, *SHARED["conversations"][:2]]}
    (record,) = parsed(row)
    assert chat.render(record).inputs == "Assistant: Welcome\nUser: Hi\nAssistant: "


@pytest.mark.parametrize(
    ("budget", "kept"), [(None, 6), (10**6, 6), (180, 5), (179, 4), (100, 2), (20, 1)]
)
def test_budget_drops_the_oldest_turns(budget, kept):
    turns = [("system", "S")]
    for n in range(6):
        turns += [("user", f"question {n}"), ("assistant", f"answer {n}")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    record = parsed(row)[-1]
    vocabulary = ByteVocabulary()
    text = chat.render(record, tokenizer=vocabulary, max_tokens=budget)
    asked = [f"question {n}" for n in range(6) if f"question {n}" in text.inputs]
    assert asked == [f"question {n}" for n in range(6 - kept, 6)]
    assert text.inputs.startswith(f"S\n\nUser: question {6 - kept}\n")
    assert text.inputs.endswith("User: question 5\nAssistant: ")
    assert text.truncated == (kept < 6)
    if kept > 1 and budget is not None:
        assert len(vocabulary.encode(text.inputs)) + 1 <= budget


def test_budget_is_used_up():
    record, vocabulary = parsed(MESSAGES)[1], ByteVocabulary()
    whole = chat.render(record).inputs
    exact = len(vocabulary.encode(whole)) + 1
    assert chat.render(record, tokenizer=vocabulary, max_tokens=exact).inputs == whole
    less = chat.render(record, tokenizer=vocabulary, max_tokens=exact - 1)
    assert less.inputs == "Be brief.\n\nUser: Bye\nAssistant: "


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "f:1: neither 'messages' nor 'conversations' is there"),
        (
            {"messages": [{"role": "tool", "content": "a"}]},
            r"f:1: messages\[0\]: the role 'tool' is none of",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            r"f:1: messages\[0\]: 'content' must be",
        ),
        ({"conversations": [{"value": "a"}]}, r"f:1: conversations\[0\]: 'from' must be a string"),
        (
            {"messages": [{"role": "assistant", "content": "a"}]},
            "f:1: no message of the assistant follows",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}]},
            "f:1: no message of the assistant follows",
        ),
        ({**SHARED, "system": 1}, "f:1: 'system' must be a string"),
    ],
)
def test_wrong_rows(row, message):
    with pytest.raises(ValueError, match=message):
        parsed(row)


@pytest.mark.parametrize("turns", ["all", "last"])
def test_conversations_in_which_nothing_is_said_are_left_out(turns, tmp_path, caplog):
    path = tmp_path / "shared.json"
    empty = [{"conversations": []}, {"messages": []}, {"conversations": [], "system": "Hm."}]
    path.write_text(json.dumps([empty[0], SHARED, *empty[1:]]))
    corpus = RowFile(path=str(path), parse=chat.parser(turns), validation=0.5)
    found = [record.id for split in corpus.splits for record in corpus.read(split)]
    assert set(found) == {record.id for record in chat.parser(turns)(SHARED, "", "shared-2")}
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: rows left out because they are empty: 3."
    ]


def test_load(tmp_path):
    path = tmp_path / "talks.jsonl"
    path.write_text(f"{json.dumps(MESSAGES)}\n{json.dumps(SHARED)}\n")
    assert [r.id for r in chat.load(path)] == ["talks-1-2", "talks-1-4", "talk-2", "talk-4"]
    assert [r.id for r in chat.load(path, turns="last")] == ["talks-1-4", "talk-4"]


def test_formats_are_read(tmp_path):
    path = tmp_path / "chat_format.json"
    path.write_text('{"user": ["U ", ";"], "reply_end": ".", "strip": false}')
    assert chat.load_format(path) == ChatFormat(user=("U ", ";"), reply_end=".", strip=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object, got list"),
        ('{"tool": ["", ""]}', "unknown key 'tool'; keys are"),
        ('{"user": ["a"]}', r"'user' cannot be \['a'\]"),
        ('{"user": "ab"}', "'user' cannot be 'ab'"),
        ('{"strip": "yes"}', "'strip' cannot be 'yes'"),
    ],
)
def test_wrong_formats(tmp_path, content, message):
    path = tmp_path / "chat_format.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        chat.load_format(path)
