"""The embedded instruction set: tasks about the standard library's docstrings, as Super-NI files.

Nothing is downloaded: the material is what `stdlib_corpus` reads from the running Python. Task
types, their phrasings and which of them are held out stand in `stdlib_instructions.json`; here is
how each type makes its (input, output) pairs. :func:`write_tasks` writes them in the layout of the
Super-NaturalInstructions repository, so that everything after it is the same road:

    folder/tasks/stdlib_first_word.json   folder/splits/default/{train,test}_tasks.txt

The first instances of a file are its held-out examples, as in the original (whose first 100 are the
evaluation subset). Inputs are short and answers depend on their surface, so that a model of a few
million parameters learns the trained types in minutes; held-out types are relatives of these.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune.data import stdlib_corpus
from ul2tune.data.records import Record, stable_hash
from ul2tune.data.superni import TaskFile
from ul2tune.data.vocab_training import cache_dir

# Changes when the same sources would give other files.
VERSION = 1
PREFIX = "stdlib_"
EVAL_INSTANCES = 32
MAX_INSTANCES = 600
_POSITIVE, _NEGATIVE = 3, 1

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
    """What pairs are made of; every tuple in a fixed order that is not the source's."""

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
        folder = write_tasks(cache_dir() / "stdlib_instructions" / fingerprint())
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
    words: set[str] = set()
    for entry in stdlib_corpus.iter_docstrings():
        text = " ".join(entry.docstring.split("\n\n")[0].split())
        kind = "function" if entry.kind == "method" else entry.kind
        if 4 <= len(text.split()) <= 12 and text.isascii() and len(text) <= 90:
            module = entry.module.split(".")[0]
            sentences.setdefault(text, Sentence(text=text, module=module, kind=kind))
            words.update(re.findall(r"(?<![^ ])[a-z]{3,9}(?![^ ])", text))
        name = entry.qualname.split(".")[-1]
        parameters = _parameter_names(entry.signature) if kind == "function" else ()
        if re.fullmatch(r"[a-z][a-z0-9_]{2,19}", name) and 1 <= len(parameters) <= 4:
            functions.setdefault(name, Function(name=name, parameters=parameters))
    shuffled = functools.partial(_shuffled, "material")
    return Material(
        sentences=tuple(sentences[text] for text in shuffled(sentences)),
        functions=tuple(functions[name] for name in shuffled(functions)),
        words=tuple(shuffled(words)),
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
            # A word with other signs in it would make this a question of where words end.
            if word.isalpha():
                yield sentence.text, word

    return pairs


def _from_signature(answer: Callable[[Function], str]) -> Callable[[Material], Iterator[Pair]]:
    def pairs(material: Material) -> Iterator[Pair]:
        for function in material.functions:
            yield f"def {function.name}({', '.join(function.parameters)})", answer(function)

    return pairs


def _last_parameter(material: Material) -> Iterator[Pair]:
    # One parameter is both first and last; that would not test what the type is about.
    functions = tuple(f for f in material.functions if len(f.parameters) > 1)
    chosen = Material(sentences=(), functions=functions, words=())
    return _from_signature(lambda f: f.parameters[-1])(chosen)


def _calls(material: Material) -> Iterator[Pair]:
    for function in material.functions:
        arguments = ", ".join(function.parameters)
        yield f"{function.name} with {arguments}", f"{function.name}({arguments})"


def _split_names(material: Material) -> Iterator[Pair]:
    for function in material.functions:
        if "_" in function.name.strip("_"):
            yield function.name, " ".join(function.name.replace("_", " ").split())


def _third_person(material: Material) -> Iterator[Pair]:
    verbs = ("Add", "Call", "Close", "Create", "Delete", "Find", "Get", "Handle", "Make", "Parse")
    verbs += ("Read", "Remove", "Return", "Send", "Set", "Write")
    for sentence in material.sentences:
        verb, *rest = sentence.text.rstrip(".").split()
        if verb in verbs and len(rest) <= 6:
            yield " ".join((verb, *rest)), f"It {verb.lower()}s {' '.join(rest)}"


def _reversed_words(count: int) -> Callable[[Material], Iterator[Pair]]:
    def pairs(material: Material) -> Iterator[Pair]:
        words = material.words
        for start in range(len(words)):
            # The stride keeps pairs of different starts from sharing neighbours.
            chosen = [words[(start * (step + 1) + step) % len(words)] for step in range(count)]
            if len(set(chosen)) == count:
                yield " ".join(chosen), " ".join(reversed(chosen))

    return pairs


def _counted_words(material: Material) -> Iterator[Pair]:
    words = material.words
    for start in range(len(words)):
        count = start % 6 + 1
        chosen = [words[(start + 7 * step) % len(words)] for step in range(count)]
        yield " ".join(chosen), str(count)


PAIRS: Mapping[str, Callable[[Material], Iterator[Pair]]] = {
    "mentions_return": _if_matches(r"\breturn"),
    "contains_digit": _if_matches(r"[0-9]"),
    "contains_comma": _if_matches(r","),
    "documented_object": _by_kind(("class", "function", "module")),
    "class_or_function": _by_kind(("class", "function")),
    "which_module": _by_module,
    "several_parameters": _from_signature(lambda f: "yes" if len(f.parameters) > 1 else "no"),
    "first_word": _word_at(0),
    "second_word": _word_at(1),
    "last_word": _word_at(-1),
    "first_parameter": _from_signature(lambda f: f.parameters[0]),
    "last_parameter": _last_parameter,
    "function_name": _from_signature(lambda f: f.name),
    "make_call": _calls,
    "split_name": _split_names,
    "third_person": _third_person,
    "swap_words": _reversed_words(2),
    "swap_three_words": _reversed_words(3),
    "count_words": _counted_words,
}


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
