"""The layers of the design, read off the import statements.

Under all: file_lock |
L0 atomic first_names named_function nearest portable_error signal_handlers status_line
strict_json types tree | L1 sharding compilation_cache data metrics | L2 instructions |
L3 prepare feed models | L4 optim decoding checkpoints convert | L5 training | L6 evaluation |
L7 cli integrations | L8 __main__.
A module imports its own folder and lower layers only.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    {"file_lock"},
    {
        "atomic",
        "first_names",
        "named_function",
        "nearest",
        "portable_error",
        "signal_handlers",
        "status_line",
        "strict_json",
        "types",
        "tree",
    },
    {"sharding", "compilation_cache", "data", "metrics"},
    {"instructions"},
    {"prepare", "feed", "models"},
    {"optim", "decoding", "checkpoints", "convert"},
    {"training"},
    {"evaluation"},
    {"cli", "integrations"},
    {"__main__"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# Lower by number, yet not allowed: the lines of the design that numbers do not say.
FORBIDDEN = {
    "tree": {"types"},
    # Pure Python and NumPy; `types`, `tree` and `sharding` import JAX.
    "data": {"types", "tree"},
    "metrics": {"types", "tree"},
    "instructions": {"types", "tree", "sharding"},
    "feed": {"types", "tree", "sharding"},  # worker processes do not import JAX
    "prepare": {"types", "tree", "sharding"},
    "training": {"decoding", "convert"},
    "evaluation": {"training", "convert"},
}
TENSORFLOW = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "clu"}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
# third-party package -> the parts that may import it; the others may be imported anywhere
ALLOWED = {
    **{name: {"prepare", "integrations"} for name in TENSORFLOW},  # integrations: T5X lives on them
    **{name: set(LEVEL) - {"data", "metrics", "instructions", "feed", "prepare"} for name in JAX},
    "flax": {"models", "integrations"},
    "orbax": {"checkpoints", "convert"},  # convert: T5X's Orbax form
    "optax": {"optim"},
    "gin": {"cli"},
}


@dataclass(frozen=True)
class Import:
    file: Path
    line: int
    module: str
    in_function: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def imports(file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            yield Import(file, node.lineno, module, id(node) in inside)


def package_imports() -> list[tuple[str, Import]]:
    found = []
    for file in sorted((ROOT / "ul2tune").rglob("*.py")):
        part = file.relative_to(ROOT / "ul2tune").parts[0].removesuffix(".py")
        found += [(part, item) for item in imports(file) if part != "__init__"]
    return found


def test_every_part_of_the_package_has_a_layer():
    parts = {path.name.removesuffix(".py") for path in (ROOT / "ul2tune").iterdir()}
    assert parts - {"__init__", "__pycache__", "project"} <= set(LEVEL)


def test_parts_import_lower_layers_only():
    wrong = []
    for part, item in package_imports():
        package, _, rest = item.module.partition(".")
        target = rest.split(".")[0]
        if package != "ul2tune" or target in (part, "__version__"):
            continue
        assert target in LEVEL, item
        if LEVEL[target] >= LEVEL[part] or target in FORBIDDEN.get(part, ()):
            wrong.append(str(item))
    assert not wrong, "\n".join(wrong)


def test_third_party_packages_stay_where_they_belong():
    wrong = [
        str(item)
        for part, item in package_imports()
        if part not in ALLOWED.get(item.module.split(".")[0], {part})
    ]
    assert not wrong, "\n".join(wrong)


def test_one_module_locks_files():
    """The others say whom to wait for, and what to do where a file system has no locks."""
    found = [part for part, item in package_imports() if item.module.split(".")[0] == "fcntl"]
    assert found == ["file_lock"]


def test_no_import_of_the_package_inside_functions():
    wrong = [
        str(item)
        for _, item in package_imports()
        if item.in_function and item.module.split(".")[0] == "ul2tune"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_for_types_only():
    """It would hide a circle: a module and its configuration that import each other."""
    found = [item for _, item in package_imports() if item.module == "typing.TYPE_CHECKING"]
    assert not found, "\n".join(map(str, found))


def test_nothing_imports_tasks_or_tools():
    wrong = [
        str(item)
        for _, item in package_imports()
        if item.module.split(".")[0] in ("tasks", "tools")
    ]
    assert not wrong, "\n".join(wrong)


def test_tasks_only_register():
    wrong = [
        str(item)
        for file in sorted((ROOT / "tasks").rglob("*.py"))
        for item in imports(file)
        if item.module.split(".")[0] not in {*sys.stdlib_module_names, "ul2tune", "seqio"}
        or (
            item.module.startswith("ul2tune.")
            and item.module.split(".")[1] not in ("data", "instructions", "metrics", "prepare")
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_gin_folder_holds_no_python():
    """A module there would shadow the gin package for everything started from the root."""
    assert not list((ROOT / "gin").rglob("*.py"))


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("ul2tune", {"numpy", *JAX, *TENSORFLOW}),
        ("ul2tune.cli.main", {"numpy", "gin", *JAX, *TENSORFLOW}),
        ("ul2tune.data.ul2", {*JAX, *TENSORFLOW}),
        ("ul2tune.feed.feed", {*JAX, *TENSORFLOW}),
        ("ul2tune.training.run", TENSORFLOW),
        ("ul2tune.evaluation.run", TENSORFLOW),
    ],
)
def test_import_is_light(module: str, absent: set[str]):
    code = f"import {module}, sys; print(*sorted({absent!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


def test_gin_folder_does_not_shadow_the_package():
    code = "import gin; print(gin.parse_config.__module__)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "gin.config"
