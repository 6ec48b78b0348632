"""Patterns: data with plain fields, refused otherwise, fast."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ul2tune.instructions import patterns
from ul2tune.instructions.patterns import (
    FewShotPattern,
    Template,
    compile_pattern,
    compile_wrapper,
)


def test_fields_are_filled_in_and_text_is_kept():
    pattern = compile_pattern("{b}: {a}\n{b}% {{".replace("{{", ""))
    assert pattern.names == ("b", "a", "b")
    assert pattern.render({"a": "{b} %s \\", "b": "é"}) == "é: {b} %s \\\né% "


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.text(max_size=20), st.text(max_size=20))
def test_values_are_never_read_as_patterns(one, two):
    text = compile_pattern("<{one}|{two}>").render({"one": one, "two": two})
    assert text == f"<{one}|{two}>"


@pytest.mark.parametrize(
    "text",
    [
        "{a.__class__}",
        "{a[0]}",
        "{a!r}",
        "{a:>999999999}",
        "{}",
        "{a b}",
        "{{a}}",
        "{a",
        "a}",
        "{a:{b}}",
        "{é}",
    ],
)
def test_everything_but_plain_fields_is_refused(text):
    with pytest.raises(ValueError, match=r"f.json, template 3: .*plain field"):
        compile_pattern(text, "f.json, template 3")


def test_sizes_are_bounded():
    with pytest.raises(ValueError, match="at most 50000 characters"):
        compile_pattern("a" * 60_000)
    with pytest.raises(ValueError, match="at most 64 fields"):
        compile_pattern("{a}" * 65)
    with pytest.raises(ValueError, match="more than 16000000 characters"):
        compile_pattern("{a}" * 64).render({"a": "x" * 300_000})


def test_a_missing_field_is_named():
    pattern = compile_pattern("{premise}", "p.json: group 'rte', template 0, inputs")
    with pytest.raises(ValueError, match=r"group 'rte', template 0.*'premise'.*missing.*'text'"):
        pattern.render({"text": "x"})
    with pytest.raises(ValueError, match=r"'premise'.*3 of type int"):
        pattern.render({"premise": 3})  # type: ignore[dict-item]


def test_input_patterns_are_formatted_twice():
    wrapper = compile_wrapper("{{Definition}}\n--\n{{inputs}}{final_suffix}", " END")
    assert wrapper.render({"Definition": "D", "inputs": "{x}"}) == "D\n--\n{x} END"
    for text in ("{inputs}", "{{inputs}", "{final_suffix}", "{{inputs.x}}", "{{{inputs}}}"):
        with pytest.raises(ValueError, match="input_pattern"):
            compile_wrapper(text, "")


def test_options_are_removed_as_the_authors_do():
    for text, expected in (
        ("a\n\n{options_}\nb", "a\nb"),
        ("a {options_}\n\n{options_str}", "a "),
        ("a\n{options_str}", "a\n{options_str}"),
    ):
        whole = Template(compile_pattern(text), compile_pattern("{answer}"))
        assert patterns.without_options({"x": (whole,)})["x"][0].inputs.text == expected
    for text, expected in (
        ("a | {options_}", "a"),
        ("a {options_}", "a"),
        ("a ({options_})", "a"),
        ("a\n{options_str}", "a"),
        ("{options_}b", "b"),
        ("a({options_})", "a()"),
    ):
        pattern = FewShotPattern(inputs=text, targets="{answer}")
        assert patterns.few_shot_without_options({"x": (pattern,)})["x"][0].inputs == expected


def write(path: Path, data) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_templates_are_read_and_mistakes_named(tmp_path):
    path = write(tmp_path / "p.json", {"toy": [["{q}\n{options_}", "{answer}"]]})
    (template,) = patterns.load_templates(path)["toy"]
    assert template.inputs.text == "{q}\n{options_}"
    noopt = patterns.without_options({"toy": (template,)})
    assert noopt["toy"][0].inputs.text == "{q}"
    branched = {"toy": (patterns.Template(compile_pattern("Q {q}"), template.targets),)}
    assert patterns.without_options({"toy": (template,)}, branched)["toy"][0].inputs.text == "Q {q}"
    for data, message in (
        ([], "expected a JSON object"),
        ({"toy": []}, "group 'toy'"),
        ({"toy": [["a"]]}, "group 'toy', template 0: expected"),
        ({"toy": [["a", "{b.c}"]]}, "group 'toy', template 0, targets"),
        ({"toy": [["a", 3]]}, "must be a string"),
    ):
        with pytest.raises(ValueError, match=message):
            patterns.load_templates(write(path, data))
    path.write_text('{"toy":\n[}')
    with pytest.raises(ValueError, match=r"p.json:2: not valid JSON"):
        patterns.load_templates(path)
    with pytest.raises(ValueError, match="does not exist"):
        patterns.load_templates(tmp_path / "none.json")


def test_few_shot_patterns_are_read_and_mistakes_named(tmp_path):
    path = tmp_path / "p.json"
    row = {"inputs": "{q}", "targets": "{answer}", "inputs_prefix": "Q: ", "targets_prefix": "A: "}
    (pattern,) = patterns.load_few_shot(write(path, {"toy": [row]}))["toy"]
    assert pattern.combined().inputs.text == "Q: {q}\n\nA: "
    assert pattern.in_template_mix
    for change, message in (
        ({"inputs": 3}, "'inputs' must be a str"),
        ({"other": ""}, "unknown key 'other'"),
        ({"in_template_mix": "yes"}, "'in_template_mix' must be a bool"),
        ({"input_pattern": "{inputs}"}, "double braces"),
    ):
        with pytest.raises(ValueError, match=f"group 'toy', template 0.*{message}"):
            patterns.load_few_shot(write(path, {"toy": [{**row, **change}]}))
    with pytest.raises(ValueError, match="key 'targets' is missing"):
        patterns.load_few_shot(write(path, {"toy": [{"inputs": ""}]}))


def test_few_shot_options_are_removed_from_the_inputs_alone():
    pattern = FewShotPattern(inputs="{q} {options_}", targets="{options_}")
    (noopt,) = patterns.few_shot_without_options({"toy": (pattern,)})["toy"]
    assert (noopt.inputs, noopt.targets) == ("{q}", "{options_}")


def test_rendering_is_fast():
    pattern = compile_pattern("{premise}\n\nCan we say:\n{hypothesis}\n\n{options_}")
    values = {"premise": "p" * 300, "hypothesis": "h" * 60, "options_": "o" * 30}
    start = time.process_time()
    for _ in range(20_000):
        pattern.render(values)
    assert time.process_time() - start < 1.0  # 20,000 examples/s


def test_the_authors_files_have_what_the_specification_counts(shared):
    flan = shared / "data" / "flan"
    zero_shot = patterns.load_templates(flan / "v2_zero_shot_patterns.json")
    few_shot = patterns.load_few_shot(flan / "v2_few_shot_patterns.json")
    branched = patterns.load_templates(flan / "v2_flan2021_branched_patterns.json")
    first = patterns.load_templates(flan / "v1_flan2021_patterns.json")
    assert (len(zero_shot), sum(map(len, zero_shot.values()))) == (120, 1290)
    assert (len(few_shot), sum(map(len, few_shot.values()))) == (119, 1190)
    assert len(first) == 61
    assert {len(group) for group in first.values()} == {10}
    assert len(patterns.load_templates(flan / "v2_inline_fs_patterns.json")["natinst_v2"]) == 10
    noopt = patterns.without_options(zero_shot, branched)
    assert not any("options_" in t.inputs.names for group in noopt.values() for t in group)
    few_shot_noopt = patterns.few_shot_without_options(few_shot)
    assert not any("options_" in p.inputs for group in few_shot_noopt.values() for p in group)
    # The typing errors of the first release live on in it, and in it alone.
    assert sum("{hypothesis}n\n" in t.inputs.text for t in first["rte"]) == 3
    assert not any("{hypothesis}n\n" in t.inputs.text for t in zero_shot["rte"])
