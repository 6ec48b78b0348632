"""Conversations through SeqIO, `prepare`, the feed: boundaries, budgets, counts of what is cut."""

from __future__ import annotations

import importlib
import json

import pytest
import seqio

from ul2tune.data import vocab
from ul2tune.feed.feed import Feed, FeedConfig
from ul2tune.instructions import chat
from ul2tune.prepare.chat_tasks import load_style, register_chat
from ul2tune.prepare.run import prepare

pytestmark = pytest.mark.tensorflow
VOCABULARY = vocab.ByteVocabulary()
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def talk(*texts: str):
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]}


@pytest.fixture
def folder(tmp_path):
    rows = [talk(f"q{i}", f"a{i}", f"r{i}", f"b{i}") for i in range(100)]
    (tmp_path / "two-turns.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "listed.json").write_text(json.dumps([talk("x", "y")]))
    return tmp_path


def texts(task: str, split: str = "train") -> list[tuple[str, str]]:
    dataset = seqio.get_mixture_or_task(task).get_dataset(None, split, shuffle=False)
    return [
        (one["inputs_pretokenized"].decode(), one["targets_pretokenized"].decode())
        for one in dataset.as_numpy_iterator()
    ]


def test_tasks(folder, name):
    names = register_chat(folder, name=name, vocabulary=VOCABULARY)
    assert names == (name, f"{name}_listed", f"{name}_two_turns")
    sides = {split: texts(names[2], split) for split in ("train", "validation")}
    assert sum(map(len, sides.values())) == 200
    assert 0 < len(sides["validation"]) < 20
    # A vocabulary of bytes keeps spaces, so the space belongs to the answer.
    first = int(sides["train"][0][1][2:])
    assert sides["train"][:2] == [
        (f"User: q{first}\nAssistant:", f" a{first}"),
        (f"User: q{first}\nAssistant: a{first}\nUser: r{first}\nAssistant:", f" b{first}"),
    ]


def test_two_files_of_one_task_are_named(folder, name):
    (folder / "two_turns.jsonl").write_text(json.dumps(talk("x", "y")))
    with pytest.raises(
        ValueError, match=rf"two-turns\.jsonl and .*two_turns\.jsonl .* '{name}_two"
    ):
        register_chat(folder, name=name, vocabulary=VOCABULARY)


def test_last_turn_and_budget(folder, name):
    names = register_chat(
        folder, name=name, turns="last", max_tokens=30, validation=0, vocabulary=VOCABULARY
    )
    pairs = texts(names[2])
    assert len(pairs) == 100
    assert pairs[5] == ("User: r5\nAssistant:", " b5")


def test_a_template_of_the_folder(folder, name):
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": TEMPLATE, "eos_token": "</s>"})
    )
    names = register_chat(folder, name=name, validation=0, vocabulary=VOCABULARY)
    assert texts(names[1]) == [("<user>x</s><assistant>", "y")]
    assert texts(names[2])[1] == ("<user>q0</s><assistant>a0</s><user>r0</s><assistant>", "b0")


@pytest.mark.parametrize(
    ("file", "content", "eos", "ended"),
    [
        ("chat_template.jinja", TEMPLATE, None, (False, True)),
        ("chat_template.jinja", TEMPLATE, ("inputs", "targets"), (True, True)),
        ("chat_format.json", '{"user": ["U:", ""]}', None, (True, True)),
        ("chat_format.json", '{"user": ["U:", ""]}', ("targets",), (False, True)),
    ],
)
def test_prompts_of_a_models_template_end_as_transformers_asks(
    folder, name, file, content, eos, ended
):
    """An end of sequence after "<assistant>" is a prompt that no other program gives the model."""
    (folder / file).write_text(content)
    names = register_chat(folder, name=name, eos=eos, validation=0, vocabulary=VOCABULARY)
    dataset = seqio.get_mixture_or_task(names[1]).get_dataset(None, "train", shuffle=False)
    (example,) = dataset.as_numpy_iterator()
    last = [example[side][-1] for side in ("inputs", "targets")]
    assert tuple(token == VOCABULARY.eos_id for token in last) == ended


def test_styles(folder):
    assert load_style(folder) == chat.PLAIN
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    assert (
        load_style(folder).write((chat.Message("user", "a"),), "b")[0] == "<user>a</s><assistant>"
    )
    (folder / "chat_format.json").write_text('{"user": ["U:", ""]}')
    assert load_style(folder) == chat.ChatFormat(user=("U:", ""))


@pytest.mark.parametrize("layout", ["encoder_decoder", "causal_lm"])
def test_loss_is_on_replies_and_what_is_cut_is_counted(tmp_path, name, layout):
    rows = [talk("q", "a"), talk("q" * 90, "a")]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    register_chat(
        tmp_path, name=name, validation=0, max_tokens=64, eos=("targets",), vocabulary=VOCABULARY
    )
    data_dir = str(tmp_path / "prepared")
    prepare(name, [], data_dir, splits=("train",), num_workers=1)
    lengths = {"inputs": 64, "targets": 16}
    config = FeedConfig(
        mixture=name,
        data_dir=data_dir,
        feature_lengths=lengths,
        batch_size=4,
        seed=0,
        layout=layout,
        packing="none",
        num_epochs=1,
    )
    feed = Feed(config)
    trained = set()
    for batch in feed:
        for target, weight in zip(
            batch["decoder_target_tokens"], batch["decoder_loss_weights"], strict=True
        ):
            trained.add(VOCABULARY.decode([int(t) for t in target[weight > 0] if t > 1]))
    assert trained - {""} == {" a"}
    assert feed.stats()["truncated_examples"] == 1
    feed.close()


def test_no_conversations(tmp_path, name):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no conversations \(\*\.jsonl or \*\.json\)"):
        register_chat(tmp_path, name=name)


def test_module(folder, monkeypatch):
    monkeypatch.delenv("UL2TUNE_CHAT", raising=False)
    with pytest.raises(ValueError, match="set the environment variable UL2TUNE_CHAT"):
        importlib.import_module("tasks.chat")
    other = folder / "mine.json.style"
    other.write_text('{"user": ["U:", ";"], "assistant": ["A:", ";"]}')
    monkeypatch.setenv("UL2TUNE_CHAT", str(folder))
    monkeypatch.setenv("UL2TUNE_CHAT_TEMPLATE", str(other))
    monkeypatch.setenv("UL2TUNE_VOCABULARY", "bytes")
    importlib.import_module("tasks.chat")
    assert texts("chat_listed", "train") + texts("chat_listed", "validation") == [("U:x;A:", "y")]
