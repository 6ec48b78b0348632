"""The embedded instruction set: tasks about the standard library's docstrings, as Super-NI files.

Nothing is downloaded: the material is what `stdlib_corpus` reads from the running Python. Task
types, their phrasings and which of them are held out stand in `stdlib_instructions.json`; here is
how each type makes its (input, output) pairs. :func:`write_tasks` writes them in the layout of the
Super-NaturalInstructions repository, so that everything after it is the same road:

    folder/tasks/stdlib_first_word.json   folder/splits/default/{train,test}_tasks.txt

The first instances of a file are its held-out examples, as in the original (whose first 100 are the
evaluation subset). Inputs are short, answers depend on their surface and are few or made of few
words, because a model of a few million parameters that trains for minutes does not learn to copy
arbitrary text. Held-out types are relatives of trained ones.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune import atomic
from ul2tune.data import cache, stdlib_corpus
from ul2tune.instructions.records import Record, stable_hash
from ul2tune.instructions.superni import TaskFile

# Changes when the same sources would give other files.
VERSION = 2
PREFIX = "stdlib_"
EVAL_INSTANCES = 32
MAX_INSTANCES = 600
_POSITIVE, _NEGATIVE = 3, 1
# Extraction keeps the most frequent answers, none of them more often than this.
NUM_ANSWERS, MAX_PER_ANSWER = 24, 60

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """The first sentence of a docstring, where it comes from and what it documents."""

    text: str
    module: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function or method: its bare name and the names of its parameters, `self` left out."""

    name: str
    parameters: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What pairs are made of. Sentences and functions stand in a fixed order that is not the
    source's, words by falling frequency.
    """

    sentences: tuple[Sentence, ...]
    functions: tuple[Function, ...]
    words: tuple[str, ...]


@functools.cache
def task_types() -> Mapping[str, Mapping[str, Any]]:
    """The table: name -> category, definitions, explanation, optional choices and held_out."""
    path = Path(__file__).with_suffix(".json")
    return json.loads(path.read_text(encoding="utf-8"))


def task_names(*, held_out: bool) -> tuple[str, ...]:
    """Full task names of the held-out or of the trained types."""
    table = task_types()
    return tuple(PREFIX + n for n in table if table[n].get("held_out", False) == held_out)


@dataclass(frozen=True, kw_only=True)
class StdlibTask:
    """One task type as a corpus of records; its file is written when first read.

    Attributes:
      name: a full task name.
    """

    name: str

    @property
    def splits(self) -> tuple[str, ...]:
        """SeqIO splits."""
        return self._file("").splits

    def read(self, split: str) -> Iterator[Record]:
        """The records of one split, phrasings drawn per example."""
        folder = cache.folder() / "stdlib_instructions" / fingerprint()
        with cache.writing(folder):
            write_tasks(folder)
        return self._file(str(folder / "tasks" / f"{self.name}.json")).read(split)

    def fingerprint(self) -> str:
        """Changes whenever the records do; writes nothing."""
        return f"{fingerprint()}/{self._file('')}"

    def _file(self, path: str) -> TaskFile:
        held_out = self.name in task_names(held_out=True)
        return TaskFile(
            path=path, held_out=held_out, eval_instances=EVAL_INSTANCES, any_definition=True
        )


def write_tasks(folder: str | Path) -> Path:
    """Writes all task files and split lists, unless they are there already.

    The same Python gives the same bytes. Another Python's material, or another version of this
    module, replaces the files.

    Returns:
      The folder, in the layout `tasks/`, `splits/default/`.
    """
    folder = Path(folder)
    stamp = folder / "fingerprint.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == fingerprint():
        return folder
    material = read_material()
    for name in task_types():
        text = json.dumps(make_task(name, material), ensure_ascii=False, indent=1)
        _write(folder / "tasks" / f"{PREFIX}{name}.json", text + "\n")
    for split, held_out in (("train", False), ("test", True)):
        names = "".join(name + "\n" for name in task_names(held_out=held_out))
        _write(folder / "splits" / "default" / f"{split}_tasks.txt", names)
    _write(stamp, fingerprint())
    return folder


def fingerprint() -> str:
    """Hash of everything that decides the files: material, table, version."""
    parts = [VERSION, stdlib_corpus.fingerprint(), task_types(), EVAL_INSTANCES, MAX_INSTANCES]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def make_task(name: str, material: Material) -> dict[str, Any]:
    """One task file's content."""
    entry = task_types()[name]
    choices = entry.get("choices")
    pairs = _spread(name, PAIRS[name](material), choices)
    positive, pairs = pairs[:_POSITIVE], pairs[_POSITIVE : _POSITIVE + MAX_INSTANCES + _NEGATIVE]
    negative, pairs = pairs[:_NEGATIVE], pairs[_NEGATIVE:]
    content: dict[str, Any] = {
        "Contributors": ["ul2tune"],
        "Source": ["Python standard library"],
        "Categories": [entry["category"]],
        "Definition": entry["definitions"],
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Instruction_language": ["English"],
        "Positive Examples": [_example(pair, entry["explanation"]) for pair in positive],
        "Negative Examples": [
            _example((text, _wrong(output, pairs)), f"It should be: {output}")
            for text, output in negative
        ],
        "Instances": [
            {"id": f"{PREFIX}{name}-{stable_hash(text):016x}", "input": text, "output": [output]}
            for text, output in pairs
        ],
        "Instance License": ["Python Software Foundation License 2.0"],
    }
    if choices:
        content["Answer Choices"] = choices
    return content


@functools.cache
def read_material() -> Material:
    """Reads and cleans the standard library's docstrings and signatures."""
    sentences: dict[str, Sentence] = {}
    functions: dict[str, Function] = {}
    words: Counter[str] = Counter()
    for entry in stdlib_corpus.iter_docstrings():
        text = " ".join(entry.docstring.split("\n\n")[0].split())
        kind = "function" if entry.kind == "method" else entry.kind
        if 4 <= len(text.split()) <= 12 and text.isascii() and len(text) <= 90:
            module = entry.module.split(".")[0]
            sentences.setdefault(text, Sentence(text=text, module=module, kind=kind))
            words.update(re.findall(r"(?<![^ ])[a-z]{4,9}(?![^ ])", text))
        name = entry.qualname.split(".")[-1]
        parameters = _parameter_names(entry.signature) if kind == "function" else ()
        if re.fullmatch(r"[a-z][a-z0-9_]{2,19}", name) and 1 <= len(parameters) <= 4:
            function = Function(name=name, parameters=parameters)
            functions.setdefault(f"{name} {parameters}", function)
    return Material(
        sentences=tuple(sentences[text] for text in _shuffled("material", sentences)),
        functions=tuple(functions[key] for key in _shuffled("material", functions)),
        words=_by_frequency(words),
    )


def _if_matches(pattern: str) -> Callable[[Material], Iterator[Pair]]:
    def pairs(material: Material) -> Iterator[Pair]:
        for sentence in material.sentences:
            found = re.search(pattern, sentence.text, re.IGNORECASE)
            yield sentence.text, "yes" if found else "no"

    return pairs


def _by_kind(kinds: Sequence[str]) -> Callable[[Material], Iterator[Pair]]:
    def pairs(material: Material) -> Iterator[Pair]:
        return ((s.text, s.kind) for s in material.sentences if s.kind in kinds)

    return pairs


def _by_module(material: Material) -> Iterator[Pair]:
    modules = task_types()["which_module"]["choices"]
    return ((s.text, s.module) for s in material.sentences if s.module in modules)


def _word_at(index: int) -> Callable[[Material], Iterator[Pair]]:
    def pairs(material: Material) -> Iterator[Pair]:
        for sentence in material.sentences:
            word = sentence.text.split()[index].strip(".,:;")
            # A word with other characters in it would make this a question of where words end.
            if word.isalpha():
                yield sentence.text, word

    return lambda material: _frequent(pairs(material))


def _from_signature(
    answer: Callable[[Function], str], min_parameters: int = 1
) -> Callable[[Material], Iterator[Pair]]:
    def pairs(material: Material) -> Iterator[Pair]:
        for function in material.functions:
            if len(function.parameters) >= min_parameters:
                text = f"def {function.name}({', '.join(function.parameters)})"
                yield text, answer(function)

    return lambda material: _frequent(pairs(material))


def _several_parameters(material: Material) -> Iterator[Pair]:
    for function in material.functions:
        answer = "yes" if len(function.parameters) > 1 else "no"
        yield f"def {function.name}({', '.join(function.parameters)})", answer


def _function_names(material: Material) -> Iterator[Pair]:
    # Few names are defined often: the frequent ones meet the frequent parameter lists.
    names = _by_frequency(Counter(f.name for f in material.functions))[:NUM_ANSWERS]
    lists = _by_frequency(Counter(", ".join(f.parameters) for f in material.functions))
    for name, parameters in itertools.product(names, lists[:NUM_ANSWERS]):
        yield f"def {name}({parameters})", name


def _calls(material: Material) -> Iterator[Pair]:
    names = _by_frequency(Counter(f.name for f in material.functions))[:NUM_ANSWERS]
    arguments = _by_frequency(Counter(f.parameters[0] for f in material.functions))[:NUM_ANSWERS]
    for name, argument in itertools.product(names, arguments):
        yield f"{name} with {argument}", f"{name}({argument})"


def _split_names(material: Material) -> Iterator[Pair]:
    names = sorted({f.name for f in material.functions if "_" in f.name.strip("_")})
    parts = _by_frequency(Counter(part for name in names for part in name.split("_")))
    first, last = parts[:NUM_ANSWERS], parts[NUM_ANSWERS : 2 * NUM_ANSWERS]
    for one, other in itertools.product(first, last):
        if one and other:
            yield f"{one}_{other}", f"{one} {other}"


def _third_person(material: Material) -> Iterator[Pair]:
    verbs = ("Add", "Call", "Close", "Create", "Delete", "Find", "Get", "Handle", "Make", "Parse")
    verbs += ("Read", "Remove", "Return", "Send", "Set", "Write")
    chosen = (s.text for s in material.sentences if s.text.split()[0] in verbs)
    return _frequent((text, f"{text.split()[0].lower()}s") for text in chosen)


def _reversed_words(count: int) -> Callable[[Material], Iterator[Pair]]:
    def pairs(material: Material) -> Iterator[Pair]:
        for words in itertools.permutations(material.words[:NUM_ANSWERS], count):
            yield " ".join(words), " ".join(reversed(words))

    return pairs


def _counted_words(material: Material) -> Iterator[Pair]:
    words = material.words[: 10 * NUM_ANSWERS]
    for start in range(6 * len(words)):
        count = start % 6 + 1
        chosen = [words[(start // 6 + 7 * step) % len(words)] for step in range(count)]
        yield " ".join(chosen), str(count)


PAIRS: Mapping[str, Callable[[Material], Iterator[Pair]]] = {
    "mentions_return": _if_matches(r"\breturn"),
    "contains_digit": _if_matches(r"[0-9]"),
    "contains_comma": _if_matches(r","),
    "documented_object": _by_kind(("class", "function", "module")),
    "class_or_function": _by_kind(("class", "function")),
    "which_module": _by_module,
    "several_parameters": _several_parameters,
    "first_word": _word_at(0),
    "second_word": _word_at(1),
    "last_word": _word_at(-1),
    "first_parameter": _from_signature(lambda f: f.parameters[0]),
    # One parameter is both first and last; that would not test what the type is about.
    "last_parameter": _from_signature(lambda f: f.parameters[-1], min_parameters=2),
    "function_name": _function_names,
    "make_call": _calls,
    "split_name": _split_names,
    "third_person": _third_person,
    "swap_words": _reversed_words(2),
    "swap_three_words": _reversed_words(3),
    "count_words": _counted_words,
}


def _frequent(found: Iterator[Pair]) -> Iterator[Pair]:
    """Keeps the pairs with the most frequent answers, and only the first ones of each."""
    pairs = list(found)
    answers = _by_frequency(Counter(answer for _, answer in pairs))[:NUM_ANSWERS]
    for answer in answers:
        yield from [pair for pair in pairs if pair[1] == answer][:MAX_PER_ANSWER]


def _by_frequency(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(counts, key=lambda text: (-counts[text], text)))


def _spread(name: str, pairs: Iterator[Pair], choices: Sequence[str] | None) -> list[Pair]:
    """Distinct inputs in a fixed random order; with choices, all equally often and in turn."""
    unique = dict(pairs)
    order = [(text, unique[text]) for text in _shuffled(name, unique)]
    if choices is None:
        return order
    groups = [[pair for pair in order if pair[1] == choice] for choice in choices]
    return [pair for row in zip(*groups) for pair in row]


def _shuffled(salt: str, texts) -> list[str]:
    return sorted(texts, key=lambda text: (stable_hash(salt, text), text))


def _example(pair: Pair, explanation: str) -> dict[str, str]:
    return {"input": pair[0], "output": pair[1], "explanation": explanation}


def _wrong(output: str, pairs: Sequence[Pair]) -> str:
    return next(other for _, other in pairs if other != output)


def _parameter_names(signature: str) -> tuple[str, ...]:
    inside = signature.split(" -> ")[0].strip()[1:-1]
    # Defaults and annotations may hold brackets and commas; such functions are left out.
    if re.search(r"[\[\](){}'\"]", inside):
        return ()
    names = [re.split(r"[:=]", part)[0].strip() for part in inside.split(",")]
    kept = [name for name in names if name not in ("", "self", "cls", "/") and "*" not in name]
    return tuple(kept)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, text)
