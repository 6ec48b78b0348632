"""Functions that another process finds by name."""

from __future__ import annotations

import dataclasses
import functools
import json

import pytest

from ul2tune.named_function import NamedFunction


def join(*parts, sep=" ", more=()):
    return sep.join([*parts, *more])


class Group:
    @staticmethod
    def method(text):
        return text

    def __call__(self, text):
        return text


def make():
    def local(text):
        return text

    return local


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (join, "x"),
        (Group.method, "x"),
        (functools.partial(join, "a", sep="-"), "a-x"),
        (functools.partial(functools.partial(join, "a"), more=("b", "c")), "a x b c"),
    ],
)
def test_round_trip(function, result):
    named = NamedFunction.of(function)
    assert named is not None
    again = NamedFunction.from_json(json.loads(json.dumps(dataclasses.asdict(named))))
    assert again == named
    assert again.resolve()("x") == result == function("x")


@pytest.mark.parametrize(
    "function",
    [
        lambda text: text,
        make(),
        Group(),
        functools.partial(join, sep=object()),
        functools.partial(join, more={1: "JSON's keys are texts"}),
        functools.partial(join, more=float("nan")),
        functools.partial(make(), "a"),
    ],
)
def test_what_has_no_name(function):
    assert NamedFunction.of(function) is None


def test_the_program_itself_is_no_module(monkeypatch):
    monkeypatch.setattr(join, "__module__", "__main__")
    assert NamedFunction.of(join) is None


def test_a_name_must_lead_back_to_the_function(monkeypatch):
    before = join
    monkeypatch.setitem(globals(), "join", make())
    assert NamedFunction.of(before) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:f", "'no_such_module:f' cannot be imported .ModuleNotFoundError: No mod"),
        (f"{__name__}:none", "cannot be imported .AttributeError: "),
        ("broken_module:f", "cannot be imported .ZeroDivisionError: division by zero"),
        (f"{__name__}:__doc__", "is not a function but 'Functions that another"),
    ],
)
def test_what_cannot_be_imported(name, message, tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message):
        NamedFunction(name=name).resolve()


@pytest.mark.parametrize(
    "data",
    [None, "m:f", [], {}, {"name": "m:f"}, {"name": "m:f", "args": "ab", "kwargs": {}}],
)
def test_json_of_something_else(data):
    with pytest.raises(ValueError, match="is not a function's name, args and kwargs"):
        NamedFunction.from_json(data)
