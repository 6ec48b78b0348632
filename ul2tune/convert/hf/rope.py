"""Rotary positions and layer types in Transformers' config.json, in its old and new spellings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ul2tune.convert.hf.fields import Fields
from ul2tune.models.decoder import DecoderConfig
from ul2tune.models.rotary import Rope

GLOBAL, LOCAL = "full_attention", "sliding_attention"
QWEN = ("qwen2", "qwen3")
_TYPES = {"default": "none", "linear": "linear", "llama3": "llama3"}
_KEYS = {
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
}
# Bases that config.json may leave out, of global and local layers.
_THETA, _GEMMA3_THETA = 10_000.0, (1_000_000.0, 10_000.0)


def ropes(fields: Fields, *, nested: bool) -> tuple[Rope, Rope | None]:
    """The rotation of global layers, and that of local ones where it is another.

    Args:
      fields: config.json.
      nested: whether ``rope_parameters`` are by layer type (Gemma 3).

    Raises:
      ValueError: for kinds of rotation that are not supported.
    """
    hf = fields.values
    new, old = hf.get("rope_parameters"), hf.get("rope_scaling")
    for name in ("rope_parameters", "rope_scaling"):
        _check_object(fields, name, hf.get(name))
    if new is not None and nested != (GLOBAL in new or LOCAL in new):
        raise fields.error("rope_parameters", "a rotation in this form is")
    theta = fields.number("rope_theta", _GEMMA3_THETA[0] if nested else _THETA)
    if not nested:
        # As Transformers: rope_scaling, where it is there, stands for all of it.
        return _rope(fields, old or new or {}, theta), None
    new = new or {}
    if old is not None and "type" in old and "rope_type" not in old:
        # Version 4 scales then; version 5 lays it over a "rope_type": "default", which stays.
        raise fields.error(
            "rope_scaling", "type without rope_type, which versions read differently, is"
        )
    for kind in (GLOBAL, LOCAL):
        _check_object(fields, "rope_parameters", new.get(kind))
    local_theta = fields.number("rope_local_base_freq", _GEMMA3_THETA[1])
    scaled = _rope(fields, {**(new.get(GLOBAL) or {}), **(old or {})}, theta)
    return scaled, _rope(fields, new.get(LOCAL) or {}, local_theta)


def _check_object(fields: Fields, name: str, value: Any) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise fields.error(name, "anything but an object is")


def _rope(fields: Fields, values: Mapping[str, Any], theta: float) -> Rope:
    name = "rope_parameters" if fields.values.get("rope_parameters") else "rope_scaling"
    kind = values.get("rope_type", values.get("type", "default"))
    if not isinstance(kind, str) or kind not in _TYPES:
        raise fields.error(name, f"rope_type {kind!r} (anything but {', '.join(_TYPES)}) is")
    for holder in (values, fields.values):
        if holder.get("partial_rotary_factor", 1.0) not in (None, 1.0):
            raise fields.error(name, "rotating only a part of each head (partial_rotary_factor) is")
    numbers = Fields(values)
    theta = numbers.number("rope_theta", theta)
    if kind == "default":
        return Rope(theta=theta)
    unknown = sorted(set(values) - _KEYS - {"partial_rotary_factor"})
    if unknown:
        raise fields.error(name, f"{unknown[0]!r} is")
    if kind == "linear":
        return Rope(theta=theta, scaling="linear", factor=numbers.number("factor"))
    return Rope(
        theta=theta,
        scaling="llama3",
        factor=numbers.number("factor"),
        low_freq_factor=numbers.number("low_freq_factor"),
        high_freq_factor=numbers.number("high_freq_factor"),
        original_length=numbers.positive(
            "original_max_position_embeddings", fields.values.get("max_position_embeddings")
        ),
    )


def local_layers(fields: Fields, kind: str) -> tuple[bool, ...]:
    """Whether each layer sees only a window."""
    hf, count = fields.values, fields.layers("num_hidden_layers")
    types = hf.get("layer_types")
    if types is not None:
        known = (GLOBAL, LOCAL) if kind != "llama" else (GLOBAL,)
        is_list = isinstance(types, list | tuple) and len(types) == count
        if not is_list or any(name not in known for name in types):
            raise fields.error("layer_types", f"anything but {count} of {list(known)} is")
        if LOCAL in types and kind in QWEN and not fields.boolean("use_sliding_window", False):
            # Transformers drops sliding_window then, and its code for such layers fails.
            raise fields.error("use_sliding_window", f"anything but true beside {LOCAL!r} is")
        return tuple(name == LOCAL for name in types)
    if kind == "gemma2":
        return tuple(n % 2 == 0 for n in range(count))
    if kind == "gemma3_text":
        period = fields.positive("sliding_window_pattern", 6)
        return tuple((n + 1) % period != 0 for n in range(count))
    if kind in QWEN and fields.boolean("use_sliding_window", False):
        first = fields.values.get("max_window_layers", 28)
        if type(first) is not int:
            raise fields.error("max_window_layers", "anything but an integer is")
        has_window = hf.get("sliding_window", 4096) is not None
        return tuple(has_window and n >= first for n in range(count))
    return (False,) * count


def pattern(local: Sequence[bool]) -> str:
    """The shortest `DecoderConfig.attention_pattern` that says so.

    >>> pattern([True, False, True, False])
    'LG'
    """
    letters = "".join("L" if is_local else "G" for is_local in local)
    for length in range(1, len(letters)):
        if all(letters[n] == letters[n % length] for n in range(len(letters))):
            return letters[:length]
    return letters


def described(config: DecoderConfig, kind: str) -> dict[str, Any]:
    """The fields of config.json that say how positions rotate and which layers are local."""
    assert config.rope is not None, config
    theirs: dict[str, Any] = {"rope_theta": config.rope.theta}
    if (scaling := _scaling(config.rope)) is not None:
        theirs["rope_scaling"] = scaling
    if kind == "gemma3_text":
        local = config.local_rope or config.rope
        theirs["rope_local_base_freq"] = local.theta
        theirs["rope_parameters"] = {GLOBAL: _parameters(config.rope), LOCAL: _parameters(local)}
    else:
        theirs["rope_parameters"] = _parameters(config.rope)
    if kind != "llama":
        local = [LOCAL if is_local else GLOBAL for is_local in config.is_local]
        theirs |= {"layer_types": local, "sliding_window": config.sliding_window}
    if kind in ("gemma2", "gemma3_text") and config.sliding_window is None:
        # Their code makes the mask of local layers even where there are none, and null stops it.
        del theirs["sliding_window"]
    if kind in QWEN:
        theirs["use_sliding_window"] = config.sliding_window is not None
        theirs["max_window_layers"] = next(
            (n for n, is_local in enumerate(config.is_local) if is_local), config.num_layers
        )
    return theirs


def _scaling(rope: Rope) -> dict[str, Any] | None:
    """``rope_scaling``, None where there is none."""
    if rope.scaling == "none":
        return None
    values: dict[str, Any] = {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.scaling == "llama3":
        values |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_length,
        }
    return values


def _parameters(rope: Rope) -> dict[str, Any]:
    """``rope_parameters``."""
    return {"rope_type": "default", **(_scaling(rope) or {}), "rope_theta": rope.theta}
