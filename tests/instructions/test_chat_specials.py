"""A template's special tokens are ids, those that somebody typed are characters."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import tokenizers

from tests import tiny_tokenizers
from tests.instructions.test_chat_template import HEADERS, MARKED, TALK, plain_jinja
from ul2tune.data import vocab
from ul2tune.data.vocab_extended import extend
from ul2tune.data.vocab_tokenizer_json import with_sentinels
from ul2tune.instructions import chat, chat_template
from ul2tune.instructions.chat import ChatFormat, Message
from ul2tune.instructions.chat_specials import MARK, OPENING, QuotedStyle, Quoting, unquote

# Tokenizer, template, its own special tokens.
CASES = {
    "qwen": (MARKED, {"eos_token": "<|endoftext|>"}, 331),
    "llama": (HEADERS, {"bos_token": "<s>", "eos_token": "</s>"}, 2),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}<unused4>"
        "{{ m.role | replace('assistant', 'model') }}\n{{ m.content | trim }}<eos>\n{% endfor %}"
        "{% if add_generation_prompt %}<unused4>model\n{% endif %}",
        {"bos_token": "<bos>", "eos_token": "<eos>"},
        1,
    ),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """Vocabulary, style without quotes, id of what ends a turn, and the tokenizer itself."""
    source, tokens, turn_end = CASES[request.param]
    folder = tiny_tokenizers.KINDS[request.param](tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    style = chat_template.compiled(source, tokens=tokens)
    return vocab.load(folder), style, turn_end, theirs


def specials_in(ids, vocabulary):
    specials = {vocabulary.encode(text, specials=True)[0] for text in vocabulary.special_texts}
    return [token for token in ids if token in specials]


def test_ids_are_those_of_the_whole_text(case):
    vocabulary, style, turn_end, theirs = case
    quoting = Quoting(vocabulary)
    for length in (2, 4):
        history, reply = TALK[:length], TALK[length].content
        plain = style.write(history, reply)
        quoted = QuotedStyle(style, quoting).write(history, reply)
        assert quoted == plain  # nothing to quote
        for text in plain:
            ids = quoting.encode(text)
            assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert quoting.encode(plain[0]).count(turn_end) == length
        assert turn_end not in vocabulary.encode(plain[0])


def test_transformers_text(tmp_path):
    """What is encoded is what Transformers renders, but for the first token."""
    vocabulary = vocab.load(tiny_tokenizers.llama_like(tmp_path))
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    style = QuotedStyle(chat_template.compiled(HEADERS, tokens=tokens), Quoting(vocabulary))
    whole = plain_jinja(HEADERS, TALK, prompt=False)
    inputs, targets = style.write(TALK[:-1], TALK[-1].content)
    assert "<s>" + inputs + targets + "</s>" == whole


def test_what_somebody_typed_stays_characters(case):
    vocabulary, style, _, _ = case
    quoting = Quoting(vocabulary)
    every = "".join(vocabulary.special_texts)
    typed = f"{every} a {every[:4]}{every}{MARK}{every}{MARK}{MARK}{OPENING}"

    def written(text: str):
        history = [Message("user", text), Message("assistant", text), Message("user", text)]
        return QuotedStyle(style, quoting).write(history, text), style.write(history, text)

    plain, (quoted, unquoted) = written("a")[0], written(typed)
    for one, other, expected in zip(plain, quoted, unquoted, strict=True):
        ids = quoting.encode(other)
        assert specials_in(ids, vocabulary) == specials_in(quoting.encode(one), vocabulary)
        assert unquote(other) == expected
        everything = specials_in(vocabulary.encode(expected, specials=True), vocabulary)
        assert len(everything) > len(specials_in(ids, vocabulary))
        pieces = [token for token in ids if token not in specials_in(ids, vocabulary)]
        assert vocabulary.decode(pieces).count(typed) == expected.count(typed)


def test_two_messages_do_not_make_a_special_token(tmp_path):
    vocabulary = vocab.load(tiny_tokenizers.qwen_like(tmp_path))
    style = ChatFormat(user=("", ""), assistant=("", ""), strip=False)
    quoting = Quoting(vocabulary)
    history = [Message("user", "<|im_"), Message("assistant", "end|>"), Message("user", "<|im_ ")]
    text, _ = QuotedStyle(style, quoting).write(history, "")
    assert unquote(text) == "<|im_end|><|im_ "
    assert quoting.encode(text) == vocabulary.encode("<|im_end|><|im_ ")


@pytest.mark.parametrize("special", ["<|im_end|>", "[S]", "<extra_id_0>"])
@pytest.mark.parametrize("around", ["{}", " {}\n", "{} a"])
def test_no_part_of_a_special_token_completes_it(special, around, tmp_path):
    """Whatever the style writes before and after it."""
    vocabulary = with_sentinels(vocab.load(tiny_tokenizers.qwen_like(tmp_path)), 4)
    quoting = Quoting(vocabulary)
    for start, end in itertools.combinations(range(len(special) + 1), 2):
        parts = special[:start], around.format(special[start:end]), special[end:]
        style = ChatFormat(user=(parts[0], parts[2]), assistant=("", ""))
        text, _ = QuotedStyle(style, quoting).write([Message("user", parts[1])], "")
        assert unquote(text) == parts[0] + parts[1].strip() + parts[2]
        assert quoting.encode(text) == vocabulary.encode(unquote(text))


def test_marks_of_neighbours_are_told_apart(tmp_path):
    quoting = Quoting(vocab.load(tiny_tokenizers.qwen_like(tmp_path)))
    said = ["<|im_", "end|>", MARK, "end|>", OPENING, "end|>", "<|im_end|>", "|im_end|>"]
    text = "".join(map(quoting.quote, said))
    assert unquote(text) == "".join(said)
    assert quoting.encode(text) == quoting.vocabulary.encode("".join(said))


@pytest.mark.parametrize("change", ["lower", "upper", "title"])
def test_templates_that_change_case(change, tmp_path):
    vocabulary = with_sentinels(vocab.load(tiny_tokenizers.qwen_like(tmp_path)), 4)
    quoting = Quoting(vocabulary)
    source = f"{{% for m in messages %}}<{{{{ m.content | {change} }}}}|im_end|>{{% endfor %}}"
    style = chat_template.compiled(source)
    for said in ("a <|IM_END|> <|Im_End|>", "|IM_END|>", "b <", "[s]"):
        text, _ = QuotedStyle(style, quoting).write([Message("user", said)], "")
        assert quoting.encode(text) == vocabulary.encode(unquote(text))


def test_special_tokens_of_one_character():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Short(vocab.ByteVocabulary):
        def _own_specials(self):
            return ("§",)

    quoting = Quoting(Short())
    for typed in ("§", "a § b", f"§{MARK}", f"§{MARK}{MARK}a", f"{MARK}§"):
        assert not quoting.has_specials(quoting.quote(typed))
        assert unquote(quoting.quote(typed)) == typed
        assert quoting.has_specials("§" + quoting.quote(typed))


def test_overlapping_special_tokens():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Overlapping(vocab.ByteVocabulary):
        def _own_specials(self):
            return ("<a>", "><b>", "<<a>>", "ab")

    quoting = Quoting(Overlapping())
    for typed in ("<a><b>", "<<a>>", "<<a><b>>", "aab", "<extra_id_3>[S]"):
        assert not quoting.has_specials(quoting.quote(typed))
        assert quoting.encode(quoting.quote(typed)) == quoting.vocabulary.encode(typed)
    assert quoting.has_specials("a <a>")


def test_sentinels_and_added_tokens(tmp_path):
    plain = vocab.load(tiny_tokenizers.qwen_like(tmp_path))
    for vocabulary in (with_sentinels(plain, 4), extend(plain, ("\n\t",))):
        quoting = Quoting(vocabulary)
        assert quoting.encode("a<|im_end|>\n\t") == [
            *vocabulary.encode("a"), 331, *vocabulary.encode("\n\t")
        ]  # fmt: skip
        assert quoting.encode(quoting.quote("<|im_end|>")) == plain.encode("<|im_end|>")
    four = Quoting(with_sentinels(plain, 4))
    assert four.encode("[S]<extra_id_0>") == [plain.size + 5, plain.size + 3]
    assert four.encode(four.quote("[S]<extra_id_0>")) == plain.encode("[S]<extra_id_0>")


@pytest.mark.parametrize("text", ["<|im_end|>", "é <|im_start|> a", "[S] <extra_id_0>", "", "<"])
def test_a_vocabulary_without_special_tokens(text):
    """T5's and ByT5's chat data is what it was."""
    quoting = Quoting(vocab.ByteVocabulary(extra_ids=0, modes=()))
    assert quoting.quote(text) == text
    sentinels = Quoting(vocab.ByteVocabulary())
    for one in (quoting, sentinels):
        assert one.encode(one.quote(text)) == one.vocabulary.encode(text)


def test_budget_counts_the_ids_that_are_trained_on(tmp_path):
    vocabulary = vocab.load(tiny_tokenizers.qwen_like(tmp_path))
    quoting = Quoting(vocabulary)
    style = QuotedStyle(chat_template.compiled(MARKED), quoting)
    row = {"messages": [{"role": m.role, "content": m.content} for m in TALK]}
    record = chat.parse(row, "f:1", "f-1")[1]
    whole = chat.render(record, style=style).inputs
    exact = len(quoting.encode(whole)) + 1
    assert exact < len(vocabulary.encode(whole))

    def rendered(max_tokens):
        return chat.render(record, style=style, tokenizer=quoting, max_tokens=max_tokens)

    assert (rendered(exact).inputs, rendered(exact).truncated) == (whole, False)
    assert rendered(exact - 1).truncated
