"""What a feed refuses before its first batch: tasks that fit neither together nor into rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ul2tune.data.manifest import TaskManifest
from ul2tune.data.ul2 import UL2Noise, longest_fitting
from ul2tune.feed.config import FeedConfig


def check_one_vocabulary(manifests: Sequence[TaskManifest]) -> None:
    """Refuses tasks that were prepared with different vocabularies.

    Raises:
      ValueError: naming two such tasks.
    """
    first = manifests[0]
    for other in manifests[1:]:
        if other.vocabulary["fingerprint"] != first.vocabulary["fingerprint"]:
            raise ValueError(
                f"Tasks {first.task!r} and {other.task!r} were prepared with different "
                f"vocabularies ({_describe(first)} and {_describe(other)}): prepare them with the "
                "same one, or train on them separately."
            )


def _describe(task: TaskManifest) -> str:
    return f"{task.vocabulary.get('kind')} {str(task.vocabulary['fingerprint'])[:12]}"


def check_complete(task: TaskManifest) -> None:
    """Refuses a manifest that lacks what a feed needs; types were checked when it was read.

    Raises:
      ValueError: naming what is missing.
    """
    lacks = [f"features.{name}.tokens" for name, f in task.features.items() if "tokens" not in f]
    if task.online is not None and task.online["kind"] == "ul2":
        lacks += [f"online.{name}" for name in ("feature", "config") if name not in task.online]
    if lacks:
        raise ValueError(
            f"The manifest of task {task.task!r}, split {task.split!r}, has no {lacks[0]}. Delete "
            "its folder and prepare again."
        )


def check_features(task: TaskManifest, text_feature: str, config: FeedConfig) -> None:
    """Refuses a task whose features do not fit the layout, or whose examples are all empty.

    Args:
      task: has examples.
      text_feature: the feature that holds the running text of a task that is denoised online.
      config: the layout and the feature lengths.

    Raises:
      ValueError: naming the feature.
    """
    if task.online is not None:
        needed = {text_feature}
    elif config.layout == "causal_lm":
        needed = {"targets"}
        if task.features.get("inputs") and "inputs" not in config.feature_lengths:
            raise ValueError(
                f"Task {task.task!r} has inputs, but TASK_FEATURE_LENGTHS is "
                f"{dict(config.feature_lengths)}: give a length for inputs, which causal_lm puts "
                "before the targets."
            )
    else:
        needed = {"inputs", "targets"}
    facts = task.features.values()
    if task.online is None and not any(f["tokens"] or f.get("add_eos") for f in facts):
        # Rows would take them for ever without getting any fuller.
        raise ValueError(
            f"Task {task.task!r} has no tokens: all its {task.num_examples} examples in split "
            f"{task.split!r} are empty. Prepare other sources, or take it out of the mixture."
        )
    if missing := sorted(needed - task.features.keys()):
        found = ", ".join(sorted(task.features))
        raise ValueError(
            f"Task {task.task!r} has no feature {missing[0]!r} (it has {found}), which "
            f"layout {config.layout!r} needs: add it to the Task's output_features and prepare "
            "again, or choose another layout."
        )


def check_room(task: str, noise: UL2Noise, config: FeedConfig) -> None:
    """Refuses a mixture with a denoiser whose segments find no room or have too few sentinels.

    Denoisers that are never drawn are not looked at.

    Args:
      task: its name.
      noise: what turns its running text into inputs and targets.
      config: the feature lengths and the bounds of segments.

    Raises:
      ValueError: naming the denoiser and what to change.
    """
    for number in noise.config.drawn:
        _check_inputs(task, noise, number, config)
        if config.packing == "none":
            longest = longest_in_row(noise, number, config)
            limit = f"TASK_FEATURE_LENGTHS {dict(config.feature_lengths)} allow without packing"
        else:
            _check_shortest(task, noise, number, config)
            longest = config.max_segment_tokens
            limit = f"FeedConfig.max_segment_tokens={longest} allows"
        try:
            noise.check_sentinels(number, longest)
        except ValueError as error:
            raise ValueError(f"Task {task!r}: {error} Segments are as long as {limit}.") from error


def _check_inputs(task: str, noise: UL2Noise, number: int, config: FeedConfig) -> None:
    denoiser = noise.config.denoisers[number]
    is_bare = denoiser.mode is None and not noise.config.inputs_eos
    if config.two_sided and is_bare and denoiser.kind == "causal":
        raise ValueError(
            f"Denoiser {denoiser.name!r} of task {task!r} makes inputs without any token, which an "
            "encoder cannot read: set inputs_eos=True or a mode, or use layout 'causal_lm'."
        )


def _check_shortest(task: str, noise: UL2Noise, number: int, config: FeedConfig) -> None:
    """The shortest segment must fit into an empty row, whatever its key."""
    need = noise.largest(number, [config.min_segment_tokens])
    sides = (need.inputs, need.targets) if config.two_sided else (need.both, np.zeros(1))
    if any(side[0] > room for side, room in zip(sides, config.row_lengths, strict=True)):
        raise ValueError(
            f"TASK_FEATURE_LENGTHS {dict(config.feature_lengths)} are too small for denoiser "
            f"{noise.names[number]!r} of task {task!r}: {config.min_segment_tokens} raw tokens "
            f"(FeedConfig.min_segment_tokens) can take {need.inputs[0]} inputs and "
            f"{need.targets[0]} targets. Raise the lengths or lower min_segment_tokens."
        )


def longest_in_row(noise: UL2Noise, number: int, config: FeedConfig) -> int:
    """Raw tokens of the one segment of a row when rows are not packed.

    Raises:
      ValueError: if not even one token fits.
    """
    if config.two_sided:
        return noise.max_raw(number, config.inputs_length, config.targets_length)
    length = config.row_lengths[0]
    longest = longest_fitting(noise.largest(number, np.arange(length + 1)).both <= length)
    if longest < 1:
        raise ValueError(
            f"Denoiser {noise.names[number]!r} cannot fit one token into a row of {length}: raise "
            "TASK_FEATURE_LENGTHS."
        )
    return longest
