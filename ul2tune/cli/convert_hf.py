"""`ul2tune import hf` and `ul2tune export hf`: between Transformers' folders and checkpoints."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ul2tune import __version__, atomic
from ul2tune.checkpoints import description, initialize, layout, trained_layout, vocabulary
from ul2tune.cli import exported, imported, imported_vocabulary
from ul2tune.convert.hf import export as export_lib
from ul2tune.convert.hf import folder as hf_folder
from ul2tune.convert.hf import hub
from ul2tune.convert.hf import models as hf
from ul2tune.data import vocab_tokenizer_json
from ul2tune.data.ul2_config import UL2Config
from ul2tune.signal_handlers import raise_ignored_interrupt
from ul2tune.status_line import Progress

FOLDER, RECORD = "hf", "import.json"
_DTYPES = {"stored": "F32", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def import_model(options: argparse.Namespace) -> None:
    """Writes MODEL_DIR with a checkpoint, model.gin and what came along.

    Raises:
      ValueError: if the model is not one we represent exactly, is damaged or hostile; nothing is
        written then.
    """
    source = hf.open_model(
        hub.folder(options.source, options.revision), text_only=bool(options.text_only)
    )
    progress = Progress("imported", source.num_bytes, "MB", per=10**6)
    step = options.step or 0
    origin = f"Written by `ul2tune import hf {options.source}`."
    target = imported.new_model_dir(options.model_dir, step, source.config, origin)
    with target as (folder, writer):
        for path, shape, layers in source.arrays():
            array = writer.array(f"{initialize.PARAMS}/{path}", shape)
            for layer in layers:
                raise_ignored_interrupt()
                array.append(layer)
                progress.advance(layer.nbytes)
        (folder / FOLDER).mkdir()
        hf_folder.copy_carried(source.folder.path, folder / FOLDER)
        record = {"source": options.source, "ul2tune": __version__, "dtypes": source.dtypes}
        hf_folder.write_json(folder / FOLDER / RECORD, record)
        words = imported_vocabulary.write(folder, FOLDER, source.config, options.source)
    progress.close()
    print(f"{options.model_dir}: checkpoint of step {step}; MODEL in {imported.GIN_FILE}; {words}.")


def export_model(options: argparse.Namespace) -> None:
    """Writes a checkpoint's parameters, whatever else it holds, as a folder for Transformers.

    Raises:
      ValueError: if the checkpoint's model has no counterpart there, or began as another than
        --like names.
    """
    max_shard_bytes = export_lib.MAX_SHARD_BYTES
    if options.max_shard_size is not None:
        if not 1 <= options.max_shard_size * 1e9 < math.inf:
            raise ValueError(
                f"--max_shard_size={options.max_shard_size} must be a number above 0, of GB."
            )
        max_shard_bytes = int(options.max_shard_size * 1e9)
    step_dir = initialize.resolve(options.checkpoint)
    config = description.model_of(step_dir)
    like = _like(options.like, step_dir)
    _check_like(options, like.config, config)
    stored = like.dtypes if options.dtype == "stored" else {}
    common = Counter(stored.values()).most_common(1)
    export = export_lib.Export(
        config=config,
        like=like.config,
        dtypes=stored,
        dtype=common[0][0] if common else _DTYPES[options.dtype],
        max_shard_bytes=max_shard_bytes,
    )
    plan = export_lib.plan_export(export)
    progress = Progress("exported", plan.num_bytes, "MB", per=10**6)
    with atomic.new_folder(options.directory) as folder:
        if like.folder is not None:
            hf_folder.copy_carried(like.folder, folder)
        export_lib.write_model(
            folder, plan, exported.Reader(step_dir, config, ema=options.ema), progress.advance
        )
    progress.close()
    print(f"{options.directory}: step {step_dir.name} of {options.checkpoint}.")
    notes = (
        _narrower(plan, like, options.dtype),
        _added_rows(config.vocab_size, like) or _unknown_tokens(step_dir, like),
        _reads_ahead(step_dir),
    )
    for note in notes:
        if note is not None:
            print(note)


@dataclass(frozen=True, kw_only=True)
class _Like:
    """The model that an exported one began as: where, its config.json, its tensors' dtypes."""

    folder: Path | None
    config: Mapping[str, Any]
    dtypes: Mapping[str, str]


def _check_like(options: argparse.Namespace, like: Mapping[str, Any], config: Any) -> None:
    """Refuses a --like of another family: its fields of config.json would not be the model's."""
    family = hf.family_of_config(config)
    known = {None, *family.model_types}
    if "t5gemma" in known:  # may have begun as Gemmas, whose tokenizer it has
        known.update(hf.family_of_type("gemma2").model_types)
    theirs = like.get("model_type")
    if theirs in known:
        return
    ours = family.config_to_hf(config, {})["model_type"]
    raise ValueError(
        f"--like={options.like} is a {str(theirs)[:80]}, but {options.checkpoint} is a {ours}: "
        f"name the model that it began as, or leave --like out."
    )


def _narrower(plan: export_lib.Plan, like: _Like, asked: str) -> str | None:
    """What to know where nobody asked for the dtype that parameters are rounded to."""
    narrow = sorted({export_lib.TORCH[entry.dtype] for entry in plan.entries} - {"float32"})
    if asked != "stored" or not narrow:
        return None
    return (
        f"Weights have the dtypes of {like.folder} ({', '.join(narrow)}), to which the "
        f"checkpoint's float32 is rounded; --dtype=float32 writes every bit of it."
    )


def _added_rows(rows: int, like: _Like) -> str | None:
    """What to know where the model has more rows than the one whose tokenizer it goes out with."""
    if like.folder is None:
        return None
    try:
        family = hf.family_of_type(like.config.get("model_type"))
        began: Any = family.config_from_hf(like.config)
    except ValueError:  # of no family of ours: it lends its fields and files, and has no say here
        return None
    added = rows - began.vocab_size
    if added <= 0:
        return None
    return (
        f"The tokenizer files are those of {like.folder}, a model of {began.vocab_size} rows: they "
        f"do not know what the {added} added rows of this one stand for (sentinels, mode tokens)."
    )


def _unknown_tokens(step_dir: Path, like: _Like) -> str | None:
    """What to know where noise put ids into the data that stand for nothing in a tokenizer: rows
    were spare."""
    if like.folder is None:
        return None
    meta = layout.read_meta(step_dir)
    prepared = meta.get("config", {}).get("prepared", {})
    onlines = [task["online"] for task in prepared.values() if task.get("online")]
    noises = [UL2Config.from_json(online["config"]) for online in onlines]  # with its defaults
    used = [(noise, denoiser) for noise in noises for denoiser in noise.denoisers]
    kinds = []
    # T5's tokenizers have sentinels, those of decoders do not.
    if meta.get(vocabulary.KEY, {}).get("kind") == vocab_tokenizer_json.KIND and any(
        denoiser.kind == "span" or denoiser.sentinel for _, denoiser in used
    ):
        kinds.append("sentinels")
    # Modes may be announced in text instead.
    if any(denoiser.mode and noise.mode_tokens is None for noise, denoiser in used):
        kinds.append("mode tokens")
    if not kinds:
        return None
    return (
        f"The tokenizer files are those of {like.folder}: they do not know the "
        f"{' and '.join(kinds)} that this model was trained with, whose ids are spare rows there. "
        f"UL2TUNE_VOCABULARY, as it was for the run, says which."
    )


def _reads_ahead(step_dir: Path) -> str | None:
    """What to know of a prefix LM: nothing fails there, the answers are just others."""
    if trained_layout.recorded(step_dir) != "prefix_lm":
        return None
    return (
        "This model was trained with LAYOUT = 'prefix_lm', where a prompt is read in both "
        "directions. Transformers reads it backwards only, so its answers are not those of "
        "`infer`. For use there, train the last stage with --gin.LAYOUT=causal_lm."
    )


def _like(given: str | None, step_dir: Path) -> _Like:
    """The folder named by --like, else that beside the checkpoint, else nothing."""
    if given is None:
        folder = layout.model_dir(step_dir) / FOLDER
        if not (folder / RECORD).is_file():
            return _Like(folder=None, config={}, dtypes={})
    else:
        folder = Path(given)
        folder = folder / FOLDER if (folder / FOLDER / RECORD).is_file() else folder
    config = hf_folder.read_config(folder)
    if (folder / RECORD).is_file():
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return _Like(folder=folder, config=config, dtypes=record["dtypes"])
    opened = hf_folder.open_folder(folder)
    dtypes = {name: opened.info(name).dtype for name in opened.names}
    return _Like(folder=folder, config=config, dtypes=dtypes)
