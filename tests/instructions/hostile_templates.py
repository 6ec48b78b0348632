"""Templates that try to read what they may not, or to use up time and memory.

Run as a script, renders all of them, each within the limits that it prints: a child process whose
address space is bounded, so that a failure is seen here and not by the machine.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from ul2tune.instructions.sandbox import LONGEST_SOURCE, compile_template

ROW = {"x": "Some Text", "rows": [{"a": "b"}]}


def _grow(start: str, step: str, use: str = "{{ ns.x }}", turns: int = 60) -> str:
    """A value that a loop makes larger and larger."""
    return (
        f"{{% set ns = namespace(x={start}) %}}{{% for i in range({turns}) %}}"
        f"{{% set ns.x = {step} %}}{{% endfor %}}{use}"
    )


def _repeat(what: str, setup: str = "", turns: int = 100_000) -> str:
    return f"{setup}{{% for i in range({turns}) %}}{what}{{% endfor %}}"


_LONG = "{% set s = 'ab' * 1000000 %}"
_LISTS = "{% set ns = namespace(l=[[]]) %}" + _repeat(
    "{% set y = [] %}{% set _ = ns.l[-1].append(y) %}{% set _ = ns.l[-1].append(y) %}"
    "{% set _ = ns.l.append(y) %}",
    turns=60,
)

FORBIDDEN = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class as item": "{{ x['__class__'] }}",
    "class as composed item": "{{ x['__cla' ~ 'ss__'] }}",
    "attr filter": "{{ x|attr('__class__') }}",
    "mapped attr filter": "{{ [x]|map('attr', '__class__')|list }}",
    "mapped attribute": "{{ [x]|map(attribute='__class__')|list }}",
    "sorted by attribute": "{{ rows|sort(attribute='__class__') }}",
    "template's globals": "{{ self.__init__.__globals__ }}",
    "loop's class": "{% for i in [1] %}{{ loop.__init__ }}{% endfor %}",
    "loop's privates": "{% for i in [1] %}{{ loop._iterable }}{% endfor %}",
    "function's globals": "{{ range.__globals__ }}",
    "namespace's class": "{{ namespace().__class__ }}",
    "undefined's privates": "{{ nope._undefined_message }}",
    "format's fields": "{{ '{0.__class__}'.format(x) }}",
    "format_map": "{{ '{x.__class__}'.format_map({'x': x}) }}",
    "lorem ipsum": "{{ lipsum(n=100000000) }}",
    "macro": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "include": "{% include 'secret' %}",
    "import": "{% import 'os' as os %}",
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop(a) }}{% endfor %}",
    "address of a method": "{{ x.upper }}",
    "address of an iterator": "{{ [1]|map('string') }}",
}
LARGE = {
    "text": "{{ 'a' * 10**9 }}",
    "text, not shown": "{{ ('a' * 10**9)|length }}",
    "list": "{{ [0] * 1000000000 }}",
    "power": "{{ 9**9**9**9**9 }}",
    "power by squaring": _grow("3", "ns.x * ns.x"),
    "range": "{% for i in range(1000000000) %}{% endfor %}",
    "list of a range": "{{ range(1000000000)|list }}",
    "nested loops": _repeat(_repeat(_repeat("x", turns=1000), turns=10000), turns=10000),
    "nested empty loops": _repeat(_repeat("{% if i == 1 %}{% endif %}")),
    "width": "{{ '%1000000000d' % 1 }}",
    "width in a filter": "{{ '%1000000000d'|format(1) }}",
    "width as argument": "{{ '%*d' % (1000000000, 1) }}",
    "precision": "{{ '%.1000000000f' % 1.5 }}",
    "width after odd key": "{{ '%((()))1000000000d' % {'(())': 1} }}",
    "width for format": "{{ '{:1000000000}'.format(1) }}",
    "center filter": "{{ 'a'|center(1000000000) }}",
    "center": "{{ 'a'.center(1000000000) }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "zfill": "{{ '1'.zfill(10**9) }}",
    "indent": "{{ 'a\nb'|indent(1000000000) }}",
    "wordwrap": "{{ x|wordwrap(1) }}",
    "tabs": "{{ 'a\tb'.expandtabs(10**9) }}",
    "batch": "{{ [1]|batch(1000000000, 1)|list }}",
    "round": "{{ 5|round(-1000000000) }}",
    "round up": "{{ 5|round(1000000000, 'ceil') }}",
    "many choices": "{{ '|||' * 5000000 }}",
    "doubling by ~": _grow("'ab'", "ns.x ~ ns.x"),
    "doubling by +": _grow("'ab'", "ns.x + ns.x"),
    "doubling by %": _grow("'ab'", "'%s%s' % (ns.x, ns.x)"),
    "doubling by join": _grow("'ab'", "ns.x.join([ns.x, ns.x])"),
    "doubling by join filter": _grow("'ab'", "[ns.x, ns.x]|join(ns.x)"),
    "doubling by replace": _grow("'aaaa'", "ns.x.replace('a', 'aaaa')"),
    "doubling by replace filter": _grow("'aaaa'", "ns.x|replace('', 'aaaa')"),
    "doubling by sum": _grow("['a']", "[ns.x, ns.x]|sum(start=[])"),
    "doubling by block": _repeat(
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}", "{% set ns = namespace(x='ab') %}"
    ),
    "doubling by extend": _repeat("{% set _ = l.extend(l) %}", "{% set l = [0] %}", 60),
    "doubling by dict": _grow("{'a': 1}", "{'a': ns.x, 'b': ns.x}", "{{ ns.x|string }}"),
    "doubled lists shown": _grow("[1]", "[ns.x, ns.x]"),
    "doubled lists compared": _grow("[1]", "[ns.x, ns.x]", "{{ ns.x == [ns.x, ns.x] }}"),
    "doubled lists found": _grow("[1]", "[ns.x, ns.x]", "{{ ns.x in [[ns.x, ns.x]] }}"),
    "doubled tuples hashed": _grow("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1} }}"),
    "doubled zips hashed": _grow("(1,)", "zip([ns.x], [ns.x])|first", "{{ rows[ns.x] }}"),
    "doubled namespaces": _grow("1", "namespace(a=ns.x, b=ns.x)"),
    "lists doubled from below": _LISTS + "{{ ns.l[0] }}",
    "list in itself": "{% set l = [1] %}{% set _ = l.append(l) %}{{ l }}",
    "texts kept": _repeat("{% set _ = l.append('\U0001f600' * 100000 ~ i) %}", "{% set l = [] %}"),
    "text searched": _repeat("{% if 'c' in s %}{% endif %}", _LONG),
    "text counted": _repeat("{% set z = s.count('c') %}", _LONG),
    "text cut": _repeat("{% set z = s|truncate(1000000) %}", _LONG),
    "text sliced": _repeat("{% set z = s[1:] %}", _LONG),
    "texts sorted": _LONG + "{% set t = s ~ 'c' %}{{ ([s ~ 'b', t] * 1000)|sort|length }}",
    "texts indexed": _LONG + "{{ ([s ~ 'b'] * 10000).index(s ~ 'c') }}",
    "split": "{{ ('a ' * 1900000).split()|length }}",
    "split again and again": _repeat("{% set z = t.split() %}", "{% set t = 'a ' * 100000 %}"),
    "filters": _repeat("{{ i|string|truncate(5)|upper|lower|trim|length }}"),
    "spin": _repeat("{{ loop.index + i * 2 - 1 }}"),
    "calls": _repeat("{% set z = x.upper().lower().split() %}"),
    "front of a list": _repeat("{% set _ = l.insert(0, i) %}", "{% set l = [0] * 100000 %}"),
    "taking from the front": _repeat("{% set _ = l.pop(0) %}", "{% set l = [0] * 160000 %}"),
    "long numbers": _repeat("{% set z = n|string %}", "{% set n = ('9' * 4300)|int %}"),
    "hexadecimal": "{{ ('f' * 4000000)|int(0, 16) * 2 }}",
    "title": "{{ ('a' * 1000000)|title }}",
    "wide list shown": "{{ ['\U000e0001' * 3999999] }}" * 9,
}
SOURCES = {
    "brackets": "{{ " + "(" * 8000 + "1" + ")" * 8000 + " }}",
    "lists": "{{ " + "[" * 8000 + "]" * 8000 + " }}",
    "attributes": "{{ x" + ".a" * 9000 + " }}",
    "not": "{{ " + "not " * 4900 + "1 }}",
    "sum": "{{ 1" + "+1" * 9000 + " }}",
    "blocks": "{% if 1 %}" * 900 + "{% endif %}" * 900,
    "loops": "{% for i in x %}" * 30 + "{% endfor %}" * 30,
    "many parts": "{{a}}" * 3500,
    "constants": "{{ [" + "1," * 9000 + "] }}",
    "number": "{{ " + "9" * 19000 + " }}",
    "length": "x" * (LONGEST_SOURCE + 1),
    "open comment": "{# " * 6000,
    "open raw": "{% raw %}" * 2000,
    "open tags": "{%-" * 6000,
    "open strings": "{{ '" * 4500,
    "spaces": ("{%" + " " * 500) * 38,
}


def peak() -> int:
    """Most megabytes resident so far; `getrusage` would count the parent before `exec`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def main() -> None:
    """Prints one JSON line per template: seconds, megabytes so far, and the error or the text."""
    limit = int(sys.argv[1]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name, source in (FORBIDDEN | LARGE | SOURCES).items():
        start = time.process_time()
        try:
            compile_template(source, name=name).render(ROW)
            error = ""
        except ValueError as refused:
            error = str(refused)
        result = {"name": name, "secs": time.process_time() - start, "mb": peak(), "error": error}
        print(json.dumps(result))


if __name__ == "__main__":
    main()
