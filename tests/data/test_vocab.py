"""Vocabularies: ids, sentinels, modes, round trips, fingerprints, descriptions."""

import doctest
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.data import vocab, vocab_training
from ul2tune.data.documents import Document, FileCorpus
from ul2tune.data.vocab import ByteVocabulary, PassThroughVocabulary, SentencePieceVocabulary

T5_MODEL = "data/tokenizer/sentencepiece_cc_all.32000.100extra-sentencepiece.model"
PLAIN_MODEL = "data/tokenizer/seqio_test_sentencepiece.model"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> SentencePieceVocabulary:
    folder = tmp_path_factory.mktemp("trained")
    words = ["def", "return", "the", "value", "of", "a", "list", "None", "if", "x", "{", "}", "  "]
    lines = [" ".join(words[(i * k) % len(words)] for k in range(1, 9)) for i in range(300)]
    (folder / "corpus.txt").write_text("\n".join(lines))
    corpus = FileCorpus(files=str(folder / "corpus.txt"))
    config = vocab_training.VocabularyConfig(pieces=330, extra_ids=20)
    return vocab_training.trained_vocabulary(corpus, config, folder)


def test_doctests():
    assert doctest.testmod(vocab).failed == 0


def test_id_layout_follows_t5():
    vocabulary = ByteVocabulary(extra_ids=100, modes=("R", "S"))
    info = vocabulary.info
    assert vocabulary.base_size == 259
    assert info.vocab_size == 359  # neither modes nor padding
    assert vocabulary.size == 361
    assert info.mode_ids == {"R": (359,), "S": (360,)}
    # Sentinel k is vocab_size - 1 - k.
    assert vocabulary.encode("<extra_id_0>", specials=True) == [358]
    assert vocabulary.encode("<extra_id_99>[R]", specials=True) == [259, 359]
    assert vocabulary.decode([358, 259, 360]) == "<extra_id_0><extra_id_99>[S]"


def test_specials_in_a_corpus_are_characters():
    vocabulary = ByteVocabulary()
    text = "<extra_id_0> [S] </s>"
    ids = vocabulary.encode(text)
    assert max(ids) < vocabulary.base_size
    assert 1 not in ids
    assert vocabulary.decode(ids) == text


def test_decode_stops_at_eos_and_drops_padding():
    vocabulary = ByteVocabulary()
    a, b = vocabulary.encode("ab")
    assert vocabulary.decode([a, 0, b, 1, a]) == "ab"
    assert vocabulary.decode([]) == ""
    assert vocabulary.decode([a, vocabulary.size + 5]) == f"a<row_{vocabulary.size + 5}>"
    assert vocabulary.decode_pieces([0, a, 1, 383]) == ["<pad>", "a", "</s>", "<extra_id_0>"]


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_bytes_lose_nothing(text):
    vocabulary = ByteVocabulary()
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_broken_bytes_are_visible():
    vocabulary = ByteVocabulary()
    assert vocabulary.decode(vocabulary.encode("é")[:1]) == "\ufffd"


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    text=st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="▁"))
    | st.text(alphabet="ab \n\t{}<>~\\^`  ")
)
def test_trained_vocabulary_loses_nothing(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert trained.unk_id not in ids
    assert all(3 <= i < trained.base_size for i in ids)


def test_sentinels_between_pieces_keep_the_text_around_them(trained):
    text = "the value<extra_id_3> of\n<extra_id_0>  x"
    assert trained.decode(trained.encode(text, specials=True)) == text


def test_training_is_deterministic_and_cached(trained, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("to be or not to be, that is the question\n" * 50)
    corpus = FileCorpus(files=str(folder / "*.txt"))
    config = vocab_training.VocabularyConfig(pieces=300)
    first = vocab_training.trained_vocabulary(corpus, config, tmp_path / "1")
    second = vocab_training.trained_vocabulary(corpus, config, tmp_path / "2")
    assert first.file != second.file
    assert first.read_model() == second.read_model()
    assert first.fingerprint == second.fingerprint
    # Cached: a planted file is taken as it is; other sentinels need no other model.
    with open(first.file, "wb") as file:
        file.write(trained.read_model())
    more = vocab_training.VocabularyConfig(pieces=300, extra_ids=7)
    assert vocab_training.trained_vocabulary(corpus, more, tmp_path / "1").file == first.file
    # Another corpus or size is another file.
    other = vocab_training.VocabularyConfig(pieces=301)
    assert vocab_training.trained_vocabulary(corpus, other, tmp_path / "2").file != second.file
    (folder / "b.txt").write_text("whether it is nobler in the mind to suffer\n" * 50)
    assert vocab_training.trained_vocabulary(corpus, config, tmp_path / "2").file != second.file


def test_a_big_corpus_is_read_up_to_so_many_bytes_not_characters():
    text = "道可道非常道 名可名 " * 10

    class Counted(FileCorpus):
        num_read = 0

        def read(self, rejections, *, shard=0, num_shards=1):
            for number in range(100):
                Counted.num_read += 1
                yield Document(name=str(number), text=text)

    config = vocab_training.VocabularyConfig(pieces=300, max_bytes=20 * len(text.encode()))
    vocab_training.train(Counted(files=""), config)
    assert Counted.num_read == 20


@pytest.mark.parametrize("spaces", [0, 3, 3000])
def test_a_text_with_hardly_any_space_keeps_the_spaces_of_others(spaces, tmp_path):
    """Chinese: a space is a rare character there, and SentencePiece's sign for it is U+2581."""
    (tmp_path / "text").write_text("道可道非常道\n" * 10_000 + "名 可\n" * spaces)
    corpus = FileCorpus(files=str(tmp_path / "text"))
    config = vocab_training.VocabularyConfig(pieces=300)
    vocabulary = vocab_training.trained_vocabulary(corpus, config, tmp_path)
    for text in ("名 可名", " a  b ", " "):
        assert vocabulary.decode(vocabulary.encode(text)) == text
    # Nothing is asked of a corpus that has them: its model is the bytes it always was.
    plain = vocab_training._train(corpus, config)
    assert (vocabulary.read_model() == plain) == (spaces == 3000)


def test_training_on_nothing_is_an_error(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    corpus = FileCorpus(files=str(tmp_path / "empty.txt"))
    with pytest.raises(ValueError, match="could not train"):
        vocab_training.train(corpus, vocab_training.VocabularyConfig())


@pytest.mark.parametrize("kind", ["bytes", "trained", "pass_through", "other_eos"])
def test_descriptions_round_trip(kind, trained):
    vocabulary = {
        "bytes": ByteVocabulary(extra_ids=3, modes=("X",)),
        "trained": trained,
        "pass_through": PassThroughVocabulary(num_ids=50),
        "other_eos": PassThroughVocabulary(num_ids=50, eos=49),
    }[kind]
    loaded = vocab.load(vocabulary.to_json())
    assert loaded.fingerprint == vocabulary.fingerprint
    assert (loaded.size, loaded.info) == (vocabulary.size, vocabulary.info)
    assert loaded.to_json() == vocabulary.to_json()
    assert pickle.loads(pickle.dumps(loaded)).fingerprint == vocabulary.fingerprint


def test_fingerprint_sees_what_changes_ids_and_nothing_else(trained, tmp_path):
    copy = tmp_path / "elsewhere.model"
    copy.write_bytes(trained.read_model())
    moved = SentencePieceVocabulary(file=str(copy), extra_ids=20)
    assert moved.fingerprint == trained.fingerprint
    prints = {
        v.fingerprint
        for v in (
            trained,
            SentencePieceVocabulary(file=str(copy), extra_ids=21),
            SentencePieceVocabulary(file=str(copy), extra_ids=20, modes=("R",)),
            SentencePieceVocabulary(file=str(copy), extra_ids=20, modes=("X", "R", "S")),
            ByteVocabulary(extra_ids=20),
            PassThroughVocabulary(num_ids=50),
            PassThroughVocabulary(num_ids=50, eos=49),
        )
    }
    assert len(prints) == 7


def test_description_knows_sizes_without_the_file(trained, tmp_path):
    description = trained.to_json() | {"file": "vocabularies/x.model"}
    loaded = vocab.load(description, root=tmp_path)
    assert (loaded.size, loaded.fingerprint) == (trained.size, trained.fingerprint)
    with pytest.raises(ValueError, match="does not exist"):
        loaded.encode("the")
    (tmp_path / "vocabularies").mkdir()
    (tmp_path / "vocabularies" / "x.model").write_bytes(trained.read_model())
    assert vocab.load(description, root=tmp_path).encode("the") == trained.encode("the")
    (tmp_path / "vocabularies" / "x.model").write_bytes(trained.read_model() + b"\0")
    with pytest.raises(ValueError, match="not the vocabulary this data was prepared with"):
        vocab.load(description, root=tmp_path).encode("the")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "wordpiece"}, "Unknown vocabulary kind 'wordpiece'"),
        ({"kind": "bytes", "modes": None}, "'modes': None.* is not understood: 'NoneType'"),
        ({"kind": "bytes", "exta_ids": 5}, "exta_ids"),
        ({"kind": "bytes", "fingerprint": "0"}, "expected 0"),
        ({"kind": "bytes", "extra_ids": -1}, "must not be negative"),
        ({"kind": "bytes", "modes": ["R", "R"]}, "distinct"),
        ("nowhere.model", "does not exist"),
    ],
)
def test_wrong_descriptions(description, message):
    with pytest.raises(ValueError, match=message):
        vocab.load(description).encode("x")


def test_a_description_may_be_called_vocab_json(tmp_path):
    file = tmp_path / "vocab.json"
    file.write_text('{"kind": "bytes", "extra_ids": 3}')
    assert vocab.load(file) == ByteVocabulary(extra_ids=3)
    file.write_text('{"kind": 0, "a": 1}')
    with pytest.raises(ValueError, match=r"merges.txt is needed beside"):
        vocab.load(file)


def test_not_a_model(tmp_path):
    (tmp_path / "x.model").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        vocab.load(tmp_path / "x.model").encode("x")


def test_pass_through_has_no_text():
    vocabulary = PassThroughVocabulary(num_ids=10)
    assert vocabulary.decode([4, 5, 0]) == "4 5"
    with pytest.raises(ValueError, match="no tokenizer"):
        vocabulary.encode("x")


def test_published_models(shared):
    with_sentinels = vocab.load(shared / T5_MODEL)
    assert with_sentinels.base_size == 32001
    assert with_sentinels.info.vocab_size == 32101
    assert with_sentinels.unk_id == 3
    # The file's own <extra_id_0> is where ours is.
    assert with_sentinels.encode("x <extra_id_0>", specials=True)[-1] == 32100
    with pytest.raises(ValueError, match="holds 100 sentinels of its own"):
        vocab.SentencePieceVocabulary(file=str(shared / T5_MODEL), extra_ids=5).encode("x")
    plain = vocab.load(shared / PLAIN_MODEL)
    assert (plain.base_size, plain.info.vocab_size) == (26, 126)


def test_a_models_own_sentinels_are_counted_when_it_is_opened_not_for_every_id(shared, monkeypatch):
    vocabulary, counted = vocab.load(shared / T5_MODEL), []
    count = vocab._num_own_sentinels
    monkeypatch.setattr(vocab, "_num_own_sentinels", lambda x: counted.append(x) or count(x))
    assert vocabulary.decode(vocabulary.encode("a line of text")) == "a line of text"
    assert len(counted) <= 2


def test_vocabularies_of_one_model_share_what_is_read_of_it(shared, tmp_path):
    copy = tmp_path / "copy.model"
    copy.write_bytes((shared / T5_MODEL).read_bytes())
    first, second = vocab.load(shared / T5_MODEL), vocab.load(copy)
    assert first.encode("a line") == second.encode("a line")
    assert first._opened is second._opened  # type: ignore[attr-defined]
    copy.write_bytes((shared / PLAIN_MODEL).read_bytes())
    assert vocab.load(copy).base_size != first.base_size


def test_ids_of_the_last_texts_are_kept_each_caller_with_a_list_of_its_own(monkeypatch):
    encode, asked = ByteVocabulary._encode, []
    monkeypatch.setattr(
        ByteVocabulary, "_encode", lambda self, text: asked.append(text) or encode(self, text)
    )
    vocabulary = ByteVocabulary()
    for _ in range(3):
        ids = vocabulary.encode("ab")
        assert ids == [100, 101]
        ids.append(1)
    assert asked == ["ab"]
    many = [f"text {number}" for number in range(1000)]
    assert [vocabulary.encode(text) for text in many] == [encode(vocabulary, t) for t in many]
    assert len(vocabulary._kept) <= 64
    long = "a" * 2**20  # a document is seen once, and large
    assert vocabulary.encode(long) == vocabulary.encode(long)
    assert asked.count(long) == 2
