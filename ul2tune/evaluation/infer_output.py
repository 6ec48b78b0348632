"""The output of `infer`: one writer, no line lost, repeated or torn, nothing mixed in."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ul2tune import atomic, file_lock
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import preflight, prompts
from ul2tune.evaluation.prompts import Prompt
from ul2tune.instructions import reading

# Folders of streams, which a shell may pass as if they were files.
_STREAMS = ("/dev", "/dev/fd", "/proc/self/fd")


def check_paths(input_path: str, output: Path) -> None:
    """Refuses an output that is no file of its own: a stream, or the prompts."""
    is_stream = str(output) == prompts.STDIN or str(output.parent) in _STREAMS
    if is_stream or (output.exists() and not output.is_file()):
        raise ValueError(
            f"INFER_OUTPUT = {str(output)!r} is no file: infer resumes, so it must write to one. "
            f"Name a file, such as answers.jsonl."
        )
    written = {path.resolve() for path in (output, _beside(output))}
    if input_path != prompts.STDIN and Path(input_path).resolve() in written:
        raise ValueError(
            f"INFER_OUTPUT = {str(output)!r} would write over the prompts, INFER_INPUT = "
            f"{input_path!r}. Choose another INFER_OUTPUT."
        )


def _beside(output: Path) -> Path:
    """Where the settings that made an output are."""
    return output.with_name(output.name + ".settings.json")


def start(
    output: Path,
    settings: dict[str, Any],
    asked: Iterator[Prompt],
    held: contextlib.ExitStack,
) -> int:
    """Makes the output, or finds what it answers already and skips the prompts of that.

    Args:
      output: the file of answers; its settings are beside it.
      settings: what an answer depends on, JSON.
      asked: the prompts.
      held: closes what keeps other processes from the output.

    Returns:
      The number of answers that are there.

    Raises:
      ValueError: if they are those of other prompts or settings, the file is not ours, another
        process has it, or it cannot be made.
    """
    if not output.exists():
        preflight.check_folder(output.parent, "INFER_OUTPUT")
        output.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(output.parent):
        if not output.exists():  # by now another process may have made it
            _write_settings(output, settings)
            output.touch()
        _hold(output, held)
        # An output without answers may be from other settings, which then are replaced.
        is_new = output.stat().st_size == 0 and _beside(output).exists()
        if is_new:
            _write_settings(output, settings)
    return 0 if is_new else _resume(output, settings, asked)


def _write_settings(output: Path, settings: dict[str, Any]) -> None:
    atomic.write_text(_beside(output), json.dumps(settings, indent=1, sort_keys=True) + "\n")


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Lets one process at a time begin: the settings beside an output are those of its writer."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no right to list the folder, or no locks there
            stack.enter_context(file_lock.locked_folder(folder, wait=True))
        yield


def _hold(output: Path, held: contextlib.ExitStack) -> None:
    """Keeps a second `infer` from a file that this one writes to, until `held` is closed or the
    process ends; lines of both would be in it, and what one is writing is a torn line to the other.

    Raises:
      ValueError: if another one has it.
    """
    mode = "ab" if os.access(output, os.W_OK) else "rb"  # NFS locks only what is open for writing
    file = held.enter_context(output.open(mode))
    try:
        file_lock.lock(file)
    except BlockingIOError as error:
        raise ValueError(
            f"Another process is writing to {output}. Wait for it, stop it, or choose another "
            f"INFER_OUTPUT."
        ) from error
    except OSError:
        pass  # a file system without locks


def _resume(output: Path, settings: dict[str, Any], asked: Iterator[Prompt]) -> int:
    """Checks what is there, cuts off a torn last line, and skips the prompts that are done."""
    beside = _beside(output)
    if not beside.exists():
        raise ValueError(
            f"{output} exists and was not written by infer ({beside.name} is not beside it). "
            f"Choose another INFER_OUTPUT."
        )
    again = f"Delete {output} to start over, or choose another output."
    try:
        found = dict(json.loads(beside.read_text(encoding="utf-8")))
        found["sampling"] = _completed(found.get("sampling", {}), settings["sampling"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{beside} is damaged ({error}). {again}") from error
    facts = sorted(settings.keys() - {"checkpoint"})
    other = [name for name in facts if found.get(name) != settings[name]]
    if other:
        name = other[0]
        changed = "; ".join(_changes(name, found.get(name), settings[name]))
        raise ValueError(f"{output} was made with {changed}. {again}")
    done = whole_bytes = 0
    with open(output, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                os.truncate(output, whole_bytes)
                break
            done, whole_bytes, prompt = done + 1, whole_bytes + len(line), next(asked, None)
            try:
                row = reading.parse_object(line, output, done)
            except ValueError as error:
                raise ValueError(f"{error} {again}") from error
            if prompt is None or not names(prompt).items() <= row.items():
                raise ValueError(
                    f"{output}:{done} answers another prompt than the input has. {again}"
                )
    return done


def _changes(name: str, then: Any, now: Any) -> list[str]:
    """``["sampling.num_beams = 4, now it is 2", …]``: of a group only the settings that changed."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return [f"{name} = {then!r}, now it is {now!r}"]
    keys = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)]
    return [x for key in keys for x in _changes(f"{name}.{key}", then.get(key), now.get(key))]


def _completed(then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """How an output was generated, with the settings that came later: their defaults held."""
    defaults = dataclasses.asdict(SamplingConfig())
    return then | {name: defaults[name] for name in now if name not in then}


def names(prompt: Prompt) -> dict[str, Any]:
    """What an output line says of its prompt; the id is in it because it keys the draws."""
    return {"line": prompt.line, "id": prompt.id, "prompt": prompt.text}


def append(output: Path, lines: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with atomic.naming(output), open(output, "ab") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
