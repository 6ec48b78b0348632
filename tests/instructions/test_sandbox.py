"""The sandbox: what prompts need works as in Jinja, everything else is refused in time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest

from tests.instructions.hostile_templates import FORBIDDEN, LARGE, SOURCES
from ul2tune.instructions import jinja_budget, jinja_filters
from ul2tune.instructions.sandbox import compile_template

ROOT = Path(__file__).resolve().parents[2]
ROW = {
    "text": "It rained. It rained again!",
    "words": ["pier", "boat", "pier", "tide"],
    "pairs": [{"name": "a", "size": 2}, {"name": "b", "size": 1}],
    "nested": {"deep": {"er": [1, 2.5, None, True]}},
    "label": 1,
    "empty": "",
}
USUAL = [
    "{{text}} and {{missing}}.",
    "{% if label == 1 %}one{% elif label != 0 %}more{% else %}none{% endif %}",
    "{% for w in words %}{{loop.index}}/{{loop.length}} {{w}}{{', ' if not loop.last}}{% endfor %}",
    "{% for w in words if w != 'pier' %}{{ loop.first }}{{ w }}{% else %}nothing{% endfor %}",
    "{% for w in [] %}{{ w }}{% else %}nothing{% endfor %}",
    "{% for key, value in nested.deep.items() %}{{ key }}={{ value }}{% endfor %}",
    "{% for a, b in zip(words, pairs) %}{{ a }}{{ b.name }}{% endfor %}",
    "{% for k in nested %}{{ k }}{% endfor %}{% for c in 'abc' %}{{ c }}-{% endfor %}",
    "{% for x in missing %}{{ x }}{% endfor %}|",
    "{% set ns = namespace(n=0) %}{% for w in words %}{% set ns.n = ns.n+1 %}{% endfor %}{{ns.n}}",
    "{% set l = [] %}{% for w in words %}{{ l.append(w) or '' }}{% endfor %}{{ l }}",
    "{% set d = {} %}{% for w in words %}{{ d.update({w: 1}) }}{% endfor %}{{ d.keys()|list }}",
    "{% set block %}<{{ text }}>{% endset %}{{ block * 2 }}",
    "{% filter upper %}{{ text }}{% endfilter %}{% with a = 1 %}{{ a }}{% endwith %}",
    "{{ words|join(', ') }} {{ pairs|map(attribute='name')|join }} {{ words|unique|list }}",
    "{{ pairs|selectattr('size', 'equalto', 1)|map(attribute='name')|first }} {{ words|last }}",
    "{{ pairs|sort(attribute='size')|map(attribute='name')|list }} {{ words|sort(reverse=true) }}",
    "{{ text|lower|replace('rained', 'snowed')|truncate(12) }} {{ text|truncate(9, true, '#') }}",
    "{{ text.split('.')[0].strip().lower() }} {{ text[3:9] }} {{ text[-1] }} {{ words[1:] }}",
    "{{ 7 / 2 }} {{ 7 // 2 }} {{ 7 % 2 }} {{ 2 ** 5 }} {{ -label }} {{ 'a' ~ 1 ~ none }}",
    "{{ '%05.1f %s' % (2.25, text) }} {{ '%s-%s'|format(1, 2) }} {{ 2.567|round(1) }}",
    "{{ 'rain' in text }} {{ 'x' not in words }} {{ words is defined }} {{ label is odd }}",
    "{{ (1, 2) }} {{ [1, 'a'] == [1, 'a'] }} {{ 1 < 2 <= 2 }} {{ nested['deep']['er'][1] }}",
    "{{ words|length }} {{ words|count }} {{ [1, 2]|sum }} {{ pairs|sum(attribute='size') }}",
    "{{ empty|default('none', true) }} {{ missing|d('?') }} {{ text|capitalize|title|wordcount }}",
    "{{ 'a\nb'|indent(2) }} {{ 'a'|center(5) }} {{ words|reverse|list }} {{ '3'|int }}",
    "{{ range(3)|list }} {{ range(1, 7, 2)|map('string')|join('+') }} {{ dict(a=1)|items|list }}",
    "{{ words|most_frequent }} {{ text|highlight }} {{ words|choice }} {{ words|random }}",
    "  {% if label %}\n  kept {# gone #}\n{% endif %}\n",
    "{{ [[1, 2], [3]]|sum(start=[]) }} {{ text|string|truncate(2048) }} {{ {'a': {'b': 1}} }}",
]


def plain() -> jinja2.Environment:
    """PromptSource's environment."""
    environment = jinja2.Environment()
    environment.globals["zip"] = zip
    environment.filters |= {
        "choice": random.choice,
        "most_frequent": jinja_filters.most_frequent,
        "highlight": jinja_filters.highlight,
    }
    return environment


@pytest.mark.parametrize("source", USUAL)
def test_usual_templates_render_as_in_jinja(source: str):
    for seed in range(3):
        random.seed(seed)
        expected = plain().from_string(source).render(ROW)
        assert compile_template(source, name="usual").render(ROW, seed=seed) == expected


@pytest.mark.parametrize("arguments", ["2", "9, leeway=-1", "2, end='...', leeway=9"])
def test_truncate_refuses_what_jinja_refuses(arguments: str):
    source = f"{{{{ 'ab' | truncate({arguments}) }}}}"
    with pytest.raises(AssertionError) as theirs:
        plain().from_string(source).render()
    with pytest.raises(ValueError, match="does not render") as ours:
        compile_template(source, name="cut").render({})
    assert str(theirs.value) in str(ours.value)


def test_rendering_leaves_nothing_behind():
    template = compile_template("{{ words|choice }}{{ words|random }}", name="draw")
    first = [template.render(ROW, seed=seed) for seed in range(20)]
    assert first == [template.render(ROW, seed=seed) for seed in range(20)]
    assert len(set(first)) > 3


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_no_prompt_needs_is_refused(name: str):
    with pytest.raises(ValueError, match=r"^where: (refused|is no valid|does not render)") as error:
        compile_template(FORBIDDEN[name], name="where").render({"x": "text", "rows": [{}]})
    assert "object at 0x" not in str(error.value)


def test_hostile_templates_end_within_a_second_and_a_bound_of_memory():
    """In a child with 700 MB of address space: one after the other."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.instructions.hostile_templates", "700"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["name"] for line in lines] == [*FORBIDDEN, *LARGE, *SOURCES]
    assert not [line["name"] for line in lines if not line["error"]]
    assert not [line["name"] for line in lines if "MemoryError" in line["error"]]
    assert max(line["secs"] for line in lines) < 1.0
    assert max(line["mb"] for line in lines) < 300


def test_a_loop_over_a_list_it_grows_ends():
    source = "{% set l = [1, 2] %}{% for i in l %}{{ l.append(i) or i }}{% endfor %}{{ l }}"
    assert compile_template(source, name="x").render({}) == "12[1, 2, 1, 2]"


def test_the_limit_does_not_depend_on_earlier_renderings():
    source = "{% for i in range(9000) %}{{ i }}{% endfor %}"
    template = compile_template(source, name="x")
    assert len({template.render({}) for _ in range(30)}) == 1


def test_errors_name_template_and_reason():
    with pytest.raises(ValueError, match=r"^a\.yaml:3: is no valid template in line 2: .*'endfor'"):
        compile_template("\n{% for x in y %}", name="a.yaml:3")
    with pytest.raises(ValueError, match=r"^t: does not render this row \(UndefinedError: 'y' is"):
        compile_template("{{ y.z }}", name="t").render({})
    with pytest.raises(ValueError, match=r"^t: refused, because a range is longer than"):
        compile_template("{{ range(10**9) }}", name="t").render({})


def test_facts_are_read_off_the_template():
    facts = compile_template("{% set a = 1 %}{{ a }}{{ b|choice }}{{ zip(c) }}", name="t").facts
    assert facts.variables == {"b", "c"}
    assert facts.is_random
    assert not facts.is_mutating
    assert compile_template("{{ a.append(1) }}", name="t").facts.is_mutating
    assert compile_template("{{ a['app' ~ 'end'](1) }}", name="t").facts.is_mutating


def test_weights_count_shared_parts_as_often_as_they_are_visited():
    pair = ["abc"]
    assert jinja_budget.weigh([pair, pair]) == 2 * jinja_budget.weigh(pair) + 3 * 24
    assert jinja_budget.weigh("abc") == 3
    assert jinja_budget.weigh(2**100) == 101
