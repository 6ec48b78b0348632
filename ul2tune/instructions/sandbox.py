"""Rendering Jinja templates written by anybody, within hard limits of time and memory.

    template = compile_template("{{ text | lower }}", name="shout")
    template.render({"text": "HEY"}, seed=0)

A template may compute with the row it is given and with nothing else: attributes, methods, filters
and functions are those of `jinja_filters`; every operation pays for its size before it runs
(`jinja_budget`). Constant expressions are not computed while compiling. What exceeds a limit, fails
or does not parse raises ValueError with the template's name and the reason.

Environment settings are PromptSource's: blocks are not trimmed, nothing is escaped, missing names
print as nothing, `zip` is there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from jinja2 import nodes
from jinja2.environment import Template
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.meta import TrackingCodeGenerator
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import pass_context

from ul2tune.instructions import jinja_budget as budget
from ul2tune.instructions import jinja_filters as allowed
from ul2tune.instructions.jinja_budget import Refused

LONGEST_SOURCE = 20_000
_MOST_NODES, _DEEPEST = 3_000, 80
# Names no template can write: what the compiler puts around parts of a template.
_EACH, _WEIGHED, _CONCAT = "#each", "#weighed", "#concat"
_FORBIDDEN: Mapping[type[nodes.Node], str] = {
    nodes.Extends: "extends",
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "from … import",
    nodes.Block: "block",
    nodes.Macro: "macro",
    nodes.CallBlock: "call",
    nodes.EvalContextModifier: "autoescape",
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What can be read off a template.

    Attributes:
      variables: names it takes from the row.
      is_random: it draws with `choice` or `random`.
      is_mutating: it may call a method that changes lists or dictionaries, perhaps the row's.
    """

    variables: frozenset[str]
    is_random: bool
    is_mutating: bool


class CompiledTemplate:
    """A template ready to render, in any thread. `name` is what errors call it."""

    def __init__(self, template: Template, name: str, facts: Facts):
        self.name, self.facts = name, facts
        self._render, self._context = template.root_render_func, template.new_context

    def render(self, values: Mapping[str, Any], *, seed: int = 0) -> str:
        """The text for a row; `seed` seeds `random.Random`, from which random filters draw.

        Raises:
          ValueError: if the template exceeds a limit or fails on this row.
        """
        budget.begin(seed)
        try:
            return "".join(self._render(self._context(values)))  # type: ignore[arg-type]
        except Refused as error:
            raise ValueError(f"{self.name}: refused, because {error}.") from error
        except SecurityError as error:
            raise ValueError(f"{self.name}: refused: {error}") from error
        except Exception as error:  # whatever a third-party template runs into is its error
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{self.name}: does not render this row ({reason:.300}).") from error


def compile_template(source: str, *, name: str, trim: bool = False) -> CompiledTemplate:
    """Parses, checks and compiles a template.

    `trim` is for chat templates, which Transformers reads with blocks trimmed, left and right, and
    with `break`, `continue` and `generation`.

    Raises:
      ValueError: if it does not parse, is too long or nested, or uses what no prompt may.
    """
    if len(source) > LONGEST_SOURCE:
        raise ValueError(
            f"{name}: refused, because its source exceeds {LONGEST_SOURCE:,} characters."
        )
    try:
        tree = (_TRIMMED if trim else _ENVIRONMENT).parse(source)
        tree.set_environment(_ENVIRONMENT)
        _check(tree)
        facts = _facts(tree)
        _meter(tree)
        with warnings.catch_warnings():
            # Python comments on code such as `"a" is 1`; the template's author cannot see it.
            warnings.simplefilter("ignore", SyntaxWarning)
            code = _ENVIRONMENT.compile(tree, name="template", filename=None)
        template = Template.from_code(_ENVIRONMENT, code, dict(allowed.FUNCTIONS))
    except Refused as error:
        raise ValueError(f"{name}: refused, because {error}.") from error
    except (RecursionError, MemoryError) as error:
        raise ValueError(f"{name}: refused, because it is nested too deeply.") from error
    except Exception as error:
        lineno = getattr(error, "lineno", None)
        line = f" in line {lineno}" if lineno else ""
        reason = str(getattr(error, "message", error))
        raise ValueError(f"{name}: is no valid template{line}: {reason[:300]}") from error
    return CompiledTemplate(template, name, facts)


class _Environment(SandboxedEnvironment):
    """Jinja's sandbox, in which everything is forbidden that is not allowed by name."""

    intercepted_binops = budget.OPERATORS

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return allowed.is_allowed_attribute(obj, attr)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        # Jinja's value for it would print as nothing.
        raise Refused(f"it reads the attribute {attribute!r:.80} of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> None:
        return None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return budget.binary(operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("_loop_vars", None)  # the compiler's, for functions that see the context
        kwargs.pop("_block_vars", None)
        return allowed.call(__obj, args, kwargs)


def _facts(tree: nodes.Template) -> Facts:
    attributes = {node.attr for node in tree.find_all(nodes.Getattr)}
    # `x["append"]` and `map("choice")` name things by constants, which may be composed.
    names = {node.name for node in tree.find_all(nodes.Filter)}
    indirect = bool(names & {"map", "select", "reject"})
    plain = all(
        isinstance(node.node, nodes.Getattr)
        or (isinstance(node.node, nodes.Name) and node.node.name in allowed.FUNCTIONS)
        for node in tree.find_all(nodes.Call)
    )
    tracker = TrackingCodeGenerator(_ENVIRONMENT)
    tracker.optimizer = None  # or it computes constants, in place
    tracker.visit(tree)
    return Facts(
        variables=frozenset(tracker.undeclared_identifiers) - set(allowed.FUNCTIONS),
        is_random=bool(names & allowed.RANDOM_FILTERS) or indirect,
        is_mutating=bool(attributes & allowed.MUTATORS) or not plain,
    )


@pass_context  # so that Jinja computes no output while compiling
def _output(context: Any, value: Any) -> str:
    text = budget.to_text(value)
    budget.charge(len(text))
    return text


def _concat(*values: Any) -> str:
    texts = [budget.to_text(value) for value in values]
    budget.charge(sum(map(len, texts)))
    return "".join(texts)


def _make_environment() -> _Environment:
    environment = _Environment(
        optimized=False, finalize=_output, cache_size=0, undefined=Undefined, autoescape=False
    )
    environment.filters = dict(allowed.FILTERS)
    environment.filters |= {_EACH: budget.each, _WEIGHED: budget.weighed, _CONCAT: _concat}
    environment.tests = dict(allowed.TESTS)
    environment.globals = dict(allowed.FUNCTIONS)
    return environment


class _Generation(Extension):
    """`{% generation %}` marks replies for Transformers; what it encloses is printed as it is."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)


_ENVIRONMENT = _make_environment()
_TRIMMED = _ENVIRONMENT.overlay(
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
)


def _check(tree: nodes.Template) -> None:
    """Refuses what is too large, too deep or unusual, without recursion."""
    count, stack = 0, [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > _MOST_NODES:
            raise Refused(f"it has more than {_MOST_NODES:,} parts")
        if depth > _DEEPEST:
            raise Refused(f"it is nested more than {_DEEPEST} deep")
        for kind, tag in _FORBIDDEN.items():
            if isinstance(node, kind):
                raise Refused(f"it uses `{tag}`, which prompts have no need of")
        if isinstance(node, nodes.For) and node.recursive:
            raise Refused("it uses a recursive loop")
        stack += [(child, depth + 1) for child in node.iter_child_nodes()]


def _meter(node: nodes.Node) -> int:
    """Puts accounting around the parts that need it, in place; returns the cost of one pass."""
    cost = budget.NODE
    if isinstance(node, nodes.TemplateData):
        cost += len(node.data)
    for field, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            cost += _meter(value)
            setattr(node, field, _guarded(value))
        elif isinstance(value, list):
            cost += sum(_meter(item) for item in value if isinstance(item, nodes.Node))
            value[:] = [_guarded(v) if isinstance(v, nodes.Expr) else v for v in value]
    if isinstance(node, nodes.For):
        # The test is part of each turn too; an inner loop pays for its own turns.
        node.iter = _filter(node.iter, _EACH, nodes.Const(cost))
    elif isinstance(node, nodes.Compare):
        _meter_comparison(node)
    return cost


def _guarded(node: nodes.Node) -> nodes.Node:
    if isinstance(node, nodes.Concat):
        return _filter(node.nodes[0], _CONCAT, *node.nodes[1:])
    is_slice = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    # A tuple's hash visits all it holds.
    is_tuple = isinstance(node, nodes.Tuple) and node.ctx == "load" and not _is_constant(node)
    return _filter(node, _WEIGHED) if is_slice or is_tuple else node


def _meter_comparison(node: nodes.Compare) -> None:
    """Operands pay, except where one is a constant, at which the comparison ends at the latest."""
    operands = [node.expr, *(operand.expr for operand in node.ops)]
    contains = any(operand.op in ("in", "notin") for operand in node.ops)
    if len(operands) == 2 and (
        _is_constant(operands[1]) or (_is_constant(operands[0]) and not contains)
    ):
        return
    if not _is_constant(node.expr):
        node.expr = _filter(node.expr, _WEIGHED)
    for operand in node.ops:
        if not _is_constant(operand.expr):
            operand.expr = _filter(operand.expr, _WEIGHED)


def _is_constant(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Const):
        return True
    return isinstance(node, nodes.List | nodes.Tuple) and all(map(_is_constant, node.items))


def _filter(node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
    made = nodes.Filter(node, name, list(args), [], None, None)
    made.set_lineno(node.lineno)
    made.set_environment(_ENVIRONMENT)
    return made
