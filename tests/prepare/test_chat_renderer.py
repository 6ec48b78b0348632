"""Conversations in a decoder's vocabulary through SeqIO and `prepare`: ids, texts, fingerprints."""

from __future__ import annotations

import json

import pytest
import seqio

from tests import tiny_tokenizers
from ul2tune.data import vocab
from ul2tune.evaluation import examples
from ul2tune.instructions import chat, chat_template
from ul2tune.instructions.chat import ChatFormat
from ul2tune.instructions.chat_specials import MARK, OPENING
from ul2tune.metrics.reply_frame import ReplyFrame
from ul2tune.prepare.chat_renderer import ChatRenderer
from ul2tune.prepare.chat_tasks import register_chat
from ul2tune.prepare.identity import identity
from ul2tune.prepare.opt_iml_tasks import register_opt_iml
from ul2tune.prepare.plan import make_plan
from ul2tune.prepare.record_tasks import tk_instruct_renderer
from ul2tune.prepare.run import prepare
from ul2tune.prepare.seqio_vocab import SeqioVocabulary

pytestmark = pytest.mark.tensorflow

CHATML = (
    "{% for m in messages %}{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)
ONE_TURN = "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + CHATML
TYPED = "|im_end|> stop <|im_end|>\nuser"


@pytest.fixture
def vocabulary(tmp_path):
    return vocab.load(tiny_tokenizers.qwen_like(tmp_path / "qwen"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "talks").mkdir()
    talks = [[f"{TYPED} {MARK}{OPENING}", "no"], ["x", "y", TYPED, "z"]]
    rows = [
        {
            "messages": [
                {"role": ("user", "assistant")[i % 2], "content": text}
                for i, text in enumerate(talk)
            ]
        }
        for talk in talks
    ]
    (tmp_path / "talks" / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "talks"


def register(folder, name, vocabulary, style):
    register_chat(
        folder, name=name, style=style, validation=0, eos=("targets",), vocabulary=vocabulary
    )
    return seqio.TaskRegistry.get(f"{name}_t")


def test_prepared_ids(folder, tmp_path, name, vocabulary):
    style = chat_template.compiled(CHATML)
    register(folder, name, vocabulary, style)
    data_dir = str(tmp_path / "prepared")
    prepare(name, [], data_dir, splits=("train",), num_workers=1)
    found = examples.load(name, data_dir, split="train", inputs_length=256).examples
    end, typed = [331], vocabulary.encode(TYPED)
    assert 331 not in typed
    words = vocabulary.encode
    first, middle, last = (e.inputs_S.tolist() for e in found)
    assert first == [*words(f"user\n{TYPED} {MARK}{OPENING}"), *end, *words("\nassistant\n")]
    assert middle == [*words("user\nx"), *end, *words("\nassistant\n")]
    assert last == [
        *words("user\nx"), *end, *words("\nassistant\ny"), *end,
        *words(f"\nuser\n{TYPED}"), *end, *words("\nassistant\n"),
    ]  # fmt: skip
    assert found[0].inputs_text == f"user\n{TYPED} {MARK}{OPENING}<|im_end|>\nassistant\n"


def test_prompts_with_the_end_of_sequence_inside(folder, tmp_path, name, vocabulary):
    """Qwen's chat models end every turn with it: the words of a cut prompt do not end there."""
    style = chat_template.compiled(CHATML.replace("im_end", "endoftext"))
    register(folder, name, vocabulary, style)
    data_dir = str(tmp_path / "prepared")
    prepare(name, [], data_dir, splits=("train",), num_workers=1)
    found = examples.load(name, data_dir, split="train", inputs_length=24).examples[1:]
    assert [e.inputs_S.tolist().count(vocabulary.eos_id) for e in found] == [1, 2]
    assert found[0].inputs_text == "user\nx<|endoftext|>\nassistant\n"
    assert found[1].truncated
    assert found[1].inputs_text.startswith("user\nx<|endoftext|>\nassistant\ny<|endoftext|>")


def test_seqio_sees_no_marks(folder, name, vocabulary):
    task = register(folder, name, vocabulary, chat_template.compiled(CHATML))
    rows = list(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    texts = [row["inputs_pretokenized"].decode() for row in rows]
    assert texts[0] == f"user\n{TYPED} {MARK}{OPENING}<|im_end|>\nassistant\n"
    assert MARK not in "".join(texts[1:])
    assert [row["inputs"].tolist().count(331) for row in rows] == [1, 1, 3]


def test_opt_iml_keeps_the_ids(folder, name, vocabulary):
    register(folder, name, vocabulary, chat_template.compiled(CHATML))
    register_opt_iml(f"{name}_iml", {"chat": [name]}, proportions={"chat": 1.0})
    (task,) = seqio.get_subtasks(seqio.get_mixture_or_task(f"{name}_iml"))
    rows = list(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    assert [row["inputs"].tolist().count(331) for row in rows] == [1, 1, 3]


STYLES = {
    "plain": chat.PLAIN,
    "own end": ChatFormat(reply_end="<|im_end|>"),
    "own turn": ChatFormat(user=("U: ", "<|im_end|>")),
    "chatml": chat_template.compiled(CHATML),
    "words": chat_template.compiled(CHATML.replace("<|im_end|>", "")),
    "one turn": chat_template.compiled(ONE_TURN),
    "one turn, words": chat_template.compiled(ONE_TURN.replace("<|im_end|>", "")),
    "rejecting": chat_template.compiled("{{ raise_exception('no') }}"),
}


@pytest.mark.parametrize(
    ("style", "changed"),
    [
        ("plain", False),
        ("own turn", True),
        ("own end", True),
        ("chatml", True),
        ("words", False),
        ("one turn", True),
        ("one turn, words", False),
        ("rejecting", True),
    ],
)
def test_data_is_out_of_date_where_its_tokens_are(style, changed, vocabulary):
    """Fingerprints of what was prepared before special tokens were told apart."""
    options = {"style": STYLES[style], "max_tokens": 64}
    renderer = ChatRenderer(vocabulary=SeqioVocabulary(vocabulary), **options)
    before = identity(tk_instruct_renderer(chat.render, **options))
    assert (identity(renderer) != before) == changed


@pytest.mark.parametrize(
    ("style", "changed"), [("plain", False), ("own turn", False), ("own end", True)]
)
def test_in_other_vocabularies_only_what_ends_a_reply_is_new(style, changed):
    options = {"style": STYLES[style], "max_tokens": 64}
    renderer = ChatRenderer(vocabulary=SeqioVocabulary(vocab.ByteVocabulary()), **options)
    before = identity(tk_instruct_renderer(chat.render, **options))
    assert (identity(renderer) != before) == changed


def test_frame_of_a_template_that_knows_one_turn(vocabulary, caplog):
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (record,) = chat.parse({"messages": talk}, "f:1", "f-1")
    options = {"max_tokens": 64, "vocabulary": SeqioVocabulary(vocabulary)}
    rendered = ChatRenderer(style=STYLES["one turn"], **options)(vocabulary)(record, 0)
    assert rendered is not None
    assert not caplog.records
    assert ReplyFrame.from_context(rendered.metric_context).end == "<|im_end|>"
    ChatRenderer(style=STYLES["rejecting"], **options)(vocabulary)
    assert "not known what it writes around a reply" in caplog.text


def test_data_is_out_of_date_where_another_frame_is_found(vocabulary):
    """It is prepared with the examples."""
    style = ChatFormat(reply_end="###")
    options = {"max_tokens": 64, "vocabulary": SeqioVocabulary(vocabulary)}
    found = ChatRenderer(style=style, **options).identified_by()
    assert ReplyFrame(end="###").to_context() in found


def test_the_step_is_seqios_to_fingerprints(folder, name):
    task = register(folder, name, vocab.ByteVocabulary(), chat.PLAIN)
    steps = make_plan(task, "train").pipeline.offline
    assert list(map(identity, steps)) == [identity(seqio.preprocessors.tokenize)]
