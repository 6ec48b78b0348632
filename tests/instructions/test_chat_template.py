"""Chat templates in the sandbox: as plain Jinja with Transformers' settings, or refused."""

from __future__ import annotations

import json
import time

import jinja2.ext
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ul2tune.instructions import chat, chat_template
from ul2tune.instructions.chat import Message

# Templates of our own making in the manners of those that are around.
MARKED = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
BRACKETS = """{% set ns = namespace(system='') %}
{% for message in messages %}
  {% if message['role'] == 'system' %}
    {% set ns.system = message['content'] + '\\n\\n' %}
  {% elif message['role'] == 'user' %}
    {% set first = ns.system if loop.index0 < 2 else '' %}
{{ bos_token + '[INST] ' + first + message['content'] + ' [/INST]' }}
  {% elif message['role'] == 'assistant' %}
{{ ' ' + message['content'] + eos_token }}
  {% else %}
{{ raise_exception('Only system, user and assistant roles are supported!') }}
  {% endif %}
{% endfor %}
"""
HEADERS = """{{- bos_token }}
{%- if tools is not none and tools %}{{- tools | tojson(indent=4) }}{%- endif %}
{%- if strftime_now is defined %}{{- strftime_now('%d') }}{%- endif %}
{#- the messages #}
{%- for message in messages %}
    {%- if message.role == 'assistant' and not message.content is string %}{% continue %}{% endif %}
    {{- '<h>' + message['role'] + '</h>\\n\\n'+ message['content'] | trim + eos_token }}
    {%- if loop.last %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<h>assistant</h>\\n\\n' }}{%- endif %}
"""
JSON = (
    "{% for m in messages %}{{ m | tojson }}\n{% endfor %}{% if add_generation_prompt %}{% endif %}"
)
TEMPLATES = {"marked": MARKED, "brackets": BRACKETS, "headers": HEADERS, "json": JSON}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TALK = (
    Message("system", "Be brief."),
    Message("user", " Name two é \n"),
    Message("assistant", 'a < "b"'),
    Message("user", "Again"),
    Message("assistant", "c"),
)


def plain_jinja(source: str, messages, *, prompt: bool) -> str:
    """As Transformers renders."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    rows = [{"role": m.role, "content": m.content} for m in messages]
    return environment.from_string(source).render(
        messages=rows, add_generation_prompt=prompt, tools=None, documents=None, **TOKENS
    )


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [False, True])
def test_as_plain_jinja(name, prompt):
    style = chat_template.compiled(TEMPLATES[name], tokens=TOKENS)
    for length in (2, 3, 5):
        messages = TALK[:length]
        expected = plain_jinja(TEMPLATES[name], messages, prompt=prompt)
        assert style.apply(messages, add_generation_prompt=prompt) == expected
        assert len(expected) > 20


@pytest.mark.parametrize(
    ("name", "inputs", "targets"),
    [
        (
            "marked",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nName two é<|im_end|>\n"
            "<|im_start|>assistant\n",
            'a < "b"<|im_end|>\n',
        ),
        ("brackets", "[INST] Be brief.\n\n Name two é \n [/INST]", None),
        (
            "headers",
            "<h>system</h>\n\nBe brief.</s><h>user</h>\n\nName two é</s><h>assistant</h>\n\n",
            'a < "b"',
        ),
    ],
)
def test_prompt_and_target(name, inputs, targets):
    style = chat_template.compiled(TEMPLATES[name], tokens=TOKENS)
    wrote = style.write(TALK[:2], TALK[2].content)
    if name == "brackets":  # newlines after the expressions are the template's own
        assert wrote[0].strip() == inputs
        assert wrote[1].strip() == 'a < "b"'
    else:
        assert wrote == (inputs, targets)


def test_the_end_of_sequence_is_left_to_the_task():
    style = chat_template.compiled(MARKED, tokens={"eos_token": "<|im_end|>"})
    assert style.write(TALK[:2], "c")[1] == "c"


def test_as_a_style():
    row = {"messages": [{"role": m.role, "content": m.content} for m in TALK]}
    record = chat.parse(row, "f:1", "f-1")[1]
    text = chat.render(record, style=chat_template.compiled(MARKED))
    assert text.inputs + text.targets == plain_jinja(MARKED, TALK, prompt=False)


def test_generation_marks_and_prints():
    source = (
        "{% set n = namespace(i=0) %}{% for m in messages %}\n{% generation %}\n{% set x = 1 %}"
        "{% set n.i = n.i + 1 %}{{ n.i }}{{ m.content }}{% endgeneration %}\n{{ x }};{% endfor %}"
    )
    assert chat_template.compiled(source).apply(TALK[3:]) == "1Again;2c;"
    hidden = "{% generation %}{{ messages.__class__ }}{% endgeneration %}"
    with pytest.raises(ValueError, match="reads the attribute '__class__'"):
        chat_template.compiled(hidden).apply(TALK)
    endless = (
        "{% generation %}{% for i in range(99999) %}{% for j in range(999) %}{{ j }}{% endfor %}"
    )
    with pytest.raises(ValueError, match="more work"):
        chat_template.compiled(endless + "{% endfor %}{% endgeneration %}").apply(TALK)


def test_a_rejected_conversation():
    style = chat_template.compiled(BRACKETS, tokens=TOKENS)
    with pytest.raises(ValueError, match="Only system, user and assistant roles are supported!"):
        style.apply([Message("tool", "a")])


def test_history_that_changes_with_the_reply():
    source = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match=r"does not begin with the prompt.*chat\.ChatFormat"):
        chat_template.compiled(source).write(TALK[:2], "c")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% generation %}a", "Unexpected end of template"),
        ("{% macro f() %}{% endmacro %}", "refused, because it uses `macro`"),
        ("{% include 'x' %}", "refused, because it uses `include`"),
        ("{% for m in messages %}", "is no valid template"),
    ],
)
def test_refused_when_read(source, message):
    with pytest.raises(ValueError, match=message):
        chat_template.compiled(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ messages.__class__ }}", "reads the attribute '__class__'"),
        ("{{ raise_exception.__globals__ }}", "reads the attribute '__globals__'"),
        ("{{ messages | tojson(indent=4) }}", "`tojson` takes no 'indent' here"),
        ("{{ strftime_now('%d') }}", "'strftime_now' is undefined"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "more work",
        ),
        ("{{ raise_exception('a' * 999999999) }}", "larger than"),
    ],
)
def test_refused_when_run(source, message):
    style = chat_template.compiled(source)
    start = time.monotonic()
    with pytest.raises(ValueError, match=message):
        style.apply(TALK)
    assert time.monotonic() - start < 5  # a second on a free machine


def test_doubled_values_cost_what_they_print():
    doubling = "{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}"
    source = "{% set n = namespace(l=[1]) %}" + doubling + "{{ n.l | tojson }}"
    with pytest.raises(ValueError, match="refused"):
        chat_template.compiled(source).apply(TALK)


def test_load(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    config = {
        "chat_template": HEADERS,
        "bos_token": {"content": "<s>"},
        "eos_token": "</s>",
        "pad_token": None,
    }
    path.write_text(json.dumps(config))
    style = chat_template.load(path)
    assert style.tokens == TOKENS
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": HEADERS}]
    path.write_text(json.dumps({**config, "chat_template": named}))
    assert chat_template.load(path).apply(TALK) == style.apply(TALK)
    assert chat_template.load(path).fingerprint() == style.fingerprint()
    alone = tmp_path / "chat_template.jinja"
    alone.write_text(MARKED)
    assert chat_template.load(alone).tokens == TOKENS
    assert chat_template.load(alone).fingerprint() != style.fingerprint()
    path.write_text("{}")
    with pytest.raises(
        ValueError, match=r"no 'chat_template': use the model's .* or a chat_format"
    ):
        chat_template.load(path)


def test_a_configuration_of_another_form_is_named(tmp_path):
    path, alone = tmp_path / "tokenizer_config.json", tmp_path / "chat_template.jinja"
    alone.write_text(MARKED)
    path.write_text("[]")
    for file in (path, alone):
        with pytest.raises(ValueError, match=r"tokenizer_config\.json: expected a JSON object"):
            chat_template.load(file)
    path.write_text(json.dumps({"chat_template": [HEADERS]}))
    with pytest.raises(ValueError, match=r"config\.json: chat_template\[0\] must be an object"):
        chat_template.load(path)


def test_a_template_whose_name_is_no_text_is_not_the_default(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"chat_template": [{"name": ["default"], "template": "a"}]}))
    with pytest.raises(ValueError, match=r"has no 'chat_template'"):
        chat_template.load(path)
