"""A model that says what chat tasks train it to say is right; and it need not say more."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import seqio

from tests import tiny_tokenizers
from ul2tune.data import vocab
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.data.vocab_extended import extend
from ul2tune.data.vocab_tokenizer_json import KIND
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import run
from ul2tune.evaluation.run import EvalConfig
from ul2tune.evaluation.tokens import spelled_frame
from ul2tune.instructions import chat_template
from ul2tune.instructions.chat import ChatFormat
from ul2tune.metrics.reply_frame import ReplyFrame
from ul2tune.prepare.chat_tasks import register_chat
from ul2tune.prepare.run import prepare

pytestmark = pytest.mark.tensorflow

THINKING = (
    "{% for m in messages %}{{ m.role }}\n"
    "{% if loop.last and m.role == 'assistant' %}<think>\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)
STYLES = {
    "thinking": chat_template.compiled(THINKING, tokens={"eos_token": "<|endoftext|>"}),
    "own_end": ChatFormat(reply_end=" ###"),
    "own_word": ChatFormat(reply_end=" END"),
    "plain": ChatFormat(),
}
EVAL = EvalConfig(
    split="train",
    inputs_length=128,
    batch_size=2,
    sampling=SamplingConfig(max_decode_length=16),
    metrics=("exact_match",),
)
ANSWERS = ("It is 46.", "é", "</think>", "the WEEKEND")


@pytest.fixture
def qwen(tmp_path):
    return vocab.load(tiny_tokenizers.qwen_like(tmp_path / "qwen"))


@pytest.fixture
def name(tmp_path) -> str:
    return f"chat_{tmp_path.name}"


def prepared(folder, name: str, style: str, vocabulary) -> str:
    """Conversations of one question each."""
    (folder / "talks").mkdir()
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"q{number}"},
                {"role": "assistant", "content": answer},
            ]
        }
        for number, answer in enumerate(ANSWERS)
    ]
    (folder / "talks" / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {"style": STYLES[style], "validation": 0, "eos": ("targets",)}
    register_chat(folder / "talks", name=name, vocabulary=vocabulary, **options)
    prepare(name, [], str(folder / "data"), splits=("train",), num_workers=1)
    return str(folder / "data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trimming(ByteVocabulary):
    """As T5's does."""

    def _encode(self, text):
        return super()._encode(text.strip())


class Perfect:
    """Says the targets, and whatever comes after."""

    def __init__(self, targets):
        self.targets, self.stops = targets, None

    def generate(self, inputs, names, sampling, on_done, *, stops):
        self.stops = stops
        return [np.array(ids) for ids in self.targets]

    def score(self, inputs, targets, on_done):
        return []


def targets(name: str) -> list[list[int]]:
    task = seqio.TaskRegistry.get(f"{name}_t")
    rows = task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    return [row["targets"].tolist() for row in rows]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["qwen", "bytes"])
@pytest.mark.parametrize("ends", [True, False])
def test_the_trained_target_is_right(tmp_path, qwen, name, style, kind, ends):
    """With its end of sequence and more, or without where the length is used up."""
    vocabulary = qwen if kind == "qwen" else ByteVocabulary()
    eval_set = run.load_set(name, prepared(tmp_path, name, style, vocabulary), EVAL)
    perfect = Perfect([[*ids, 50, 51] if ends else ids[:-1] for ids in targets(name)])
    answers = run.answer_all(perfect, eval_set, EVAL)  # type: ignore[arg-type]
    assert [answer.text for answer in answers] == list(ANSWERS)
    assert {answer.scores["exact_match"] for answer in answers} == {1.0}
    stopped = kind == "qwen" and style == "thinking"
    assert {answer.finished for answer in answers} == {ends or stopped}
    assert perfect.stops == [331 if stopped else None] * len(ANSWERS)


def test_frames_of_words_are_no_part_of_others(qwen):
    """Also where the vocabulary drops the space before a text."""
    for vocabulary in (qwen, ByteVocabulary(), Trimming()):
        frame, stop_id = spelled_frame(ReplyFrame(start="A ", end=" END").to_context(), vocabulary)
        assert frame.content("Apple WEEKEND") == "Apple WEEKEND"
        assert frame.content("A Apple END") == "Apple"
        assert stop_id is None


def test_generation_stops_at_added_tokens(tmp_path, qwen):
    """They are what chat tokens become in a vocabulary without any. "}" is in answers too."""
    extended = extend(qwen, ("<|end|>", "}"))
    file = tmp_path / "qwen" / "tokenizer.json"
    content = json.loads(file.read_text())
    (im_end,) = (t for t in content["added_tokens"] if t["content"] == "<|im_end|>")
    im_end["special"] = False
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(content))
    plain = vocab.load({"kind": KIND, "file": str(tmp_path / "other" / "tokenizer.json")})
    assert "<|im_end|>" not in plain.special_texts
    for end, vocabulary, expected in (
        ("\n<|end|>\n", extended, qwen.size),
        ("}", extended, None),
        ("<|im_end|>", extended, 331),
        ("<|im_end|>", plain, 331),
        ("<|end|>", plain, None),
    ):
        assert spelled_frame(ReplyFrame(end=end).to_context(), vocabulary)[1] == expected


@pytest.mark.parametrize("style", STYLES)
def test_in_plain_seqio(tmp_path, qwen, name, style):
    prepared(tmp_path, name, style, qwen)
    task = seqio.TaskRegistry.get(f"{name}_t")
    rows = list(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    for row, answer in zip(rows, ANSWERS, strict=True):
        said = row["targets_pretokenized"].decode()
        assert task.postprocess_fn(said, example=row, is_target=False) == answer
        assert list(task.postprocess_fn(said, example=row, is_target=True)) == [answer]
