"""Which of a macro's definitions is in force: a value before a default, a default before REQUIRED.

    default/BATCH_SIZE = 128     # a run file's: taken where no file and no flag sets BATCH_SIZE
    BATCH_SIZE = 32              # a value, before or after the run file

DIVERGES: in gin the last binding wins, whatever it is, so a run file read after a data file would
reset what that file sets. The flattened text that gin evaluates holds plain values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ul2tune.cli.gin_source import REQUIRED, Binding, Program

# T5X's name for a macro -> ours.
ALIASES = {"MIXTURE_OR_TASK_MODULE": "TASK_MODULES"}
# T5X's macros that nothing here reads -> why not.
WITHOUT_COUNTERPART = {
    "USE_CACHED_TASKS": "data is always prepared ahead (`ul2tune prepare`)",
    "USE_HARDWARE_RNG": "all random numbers follow from RANDOM_SEED",
    "EVALUATOR_USE_MEMORY_CACHE": "examples are read from the prepared data",
    "JSON_WRITE_N_RESULTS": "every prediction is written",
    "INFER_OUTPUT_DIR": "answers go to one file, INFER_OUTPUT",
}
DEFAULT = "default/"


def in_order_of_force(program: Program) -> list[Binding]:
    """The program's bindings, so ordered that the last one of each macro is the one in force.

    Among values, and among parameters, the order stays as it was read.

    Raises:
      ValueError: if a macro without a value has two defaults, see :func:`_decide`.
    """
    bindings = [_plain(binding) for binding in program.bindings]
    defaults: dict[str, list[Binding]] = {}
    values = set()
    for binding in bindings:
        if _is_default(binding):
            defaults.setdefault(_name(binding), []).append(binding)
        elif binding.symbol is None and binding.value != REQUIRED:
            values.add(binding.parameter)
    in_force = {
        id(_decide(name, found, program.includes))
        for name, found in defaults.items()
        if name not in values
    }

    def force(binding: Binding) -> int:
        if _is_default(binding):
            return 2 if id(binding) in in_force else 1
        return 3 if binding.symbol is None and binding.value != REQUIRED else 0

    def weak(binding: Binding) -> bool:
        return _is_default(binding) or (binding.symbol is None and binding.value == REQUIRED)

    return [
        dataclasses.replace(binding, parameter=_name(binding), weak=weak(binding))
        for binding in sorted(bindings, key=force)
    ]


def _decide(name: str, found: Sequence[Binding], includes: Mapping[str, set[str]]) -> Binding:
    """The default of the file that includes the others'; equal ones are one.

    Raises:
      ValueError: for different ones in files of which neither includes the other.
    """
    best = found[0]
    for other in found[1:]:
        if best.location.file in includes.get(other.location.file, ()):
            best = other
            continue
        inner = other.location.file in includes.get(best.location.file, ())
        if not inner and other.value != best.value:
            raise ValueError(
                f"{name} has two defaults, {best.value!r} ({best.location}) and {other.value!r} "
                f"({other.location}). Pass --gin.{name}=… or set it in a gin file."
            )
    return best


def _is_default(binding: Binding) -> bool:
    return binding.symbol is None and binding.parameter.startswith(DEFAULT)


def _name(binding: Binding) -> str:
    return binding.parameter.removeprefix(DEFAULT) if _is_default(binding) else binding.parameter


def _plain(binding: Binding) -> Binding:
    """T5X's macro names become ours; a single module may be given as a plain string."""
    if binding.symbol is not None:
        return binding
    name = _name(binding)
    prefix = binding.parameter.removesuffix(name)
    name, value = ALIASES.get(name, name), binding.value
    if name == "TASK_MODULES" and isinstance(value, str):
        value = (value,)
    return dataclasses.replace(binding, parameter=prefix + name, value=value)
