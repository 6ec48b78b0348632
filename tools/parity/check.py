"""Our side: imports a case's model, compares what it answers, and exports it again.

    python -m tools.parity.check DIR…       folders of cases, see case.py

Needs no torch: the goldens in tests/convert/goldens are checked by the same code.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity import case as case_lib
from ul2tune import atomic, tree
from ul2tune.convert.hf import export as export_lib
from ul2tune.convert.hf import folder as hf_folder
from ul2tune.convert.hf import models as hf
from ul2tune.decoding.generate import generate
from ul2tune.decoding.interface import Rules
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.models import base

LOGITS_LIMIT = 1e-4
# Of the largest element of the same tensor's gradient.
GRADIENT_LIMIT = 1e-4


@dataclass(frozen=True, kw_only=True)
class Result:
    """One comparison: how far apart at most, and how far is allowed (0: bit for bit)."""

    what: str
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        return self.error <= self.limit  # also False for NaN


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A case as our model sees it.

    Attributes:
      source: the opened model.
      config: of our model, computing in float32.
      params: its parameters.
      reference: the arrays of reference.safetensors.
      batch: model features of the teacher-forced pass.
      targets: [B, L] what the loss is over, 0 = nothing.
    """

    source: hf.Source
    config: Any
    params: Any
    reference: Mapping[str, np.ndarray]
    batch: Mapping[str, np.ndarray]
    targets: np.ndarray


def load(folder: Path) -> Loaded:
    """Imports a case's model."""
    facts = json.loads((folder / case_lib.FACTS).read_text())
    reference = case_lib.read_reference(folder)
    source = hf.open_model(folder / case_lib.MODEL, text_only=True)
    config = dataclasses.replace(source.config, dtype="float32")  # type: ignore[type-var]
    batch, targets = BATCHES[facts["kind"]](reference)
    params = hf.load_params(source, base.abstract_params(config))
    return Loaded(
        source=source,
        config=config,
        params=params,
        reference=reference,
        batch=batch,
        targets=targets,
    )


def _seq2seq(reference: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    targets = reference["inputs/targets"]
    batch = {
        "encoder_input_tokens": reference["inputs/encoder"],
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
    }
    return batch, targets


def _causal(reference: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    tokens = reference["inputs/tokens"]
    targets = np.pad(tokens, ((0, 0), (0, 1)))[:, 1:]
    # A row's last token has nothing to predict here, yet it is read: it is no padding.
    return {"decoder_input_tokens": tokens, "decoder_target_tokens": tokens}, targets


BATCHES = {"seq2seq": _seq2seq, "causal": _causal}


def check(folder: Path, exported: Path) -> list[Result]:
    """All comparisons of one case; what we export of it is left in the new folder `exported`."""
    loaded = load(folder)
    facts = json.loads((folder / case_lib.FACTS).read_text())
    results = [*_logits_and_gradients(loaded), _greedy(loaded, facts["kind"])]
    if any(name.startswith("tap/") for name in loaded.reference):
        family = importlib.import_module(f"tools.parity.ours_{facts['family']}")
        results += family.submodules(loaded)
    return [*results, *_round_trip(loaded, exported)]


def _logits_and_gradients(loaded: Loaded) -> list[Result]:
    """Teacher-forced logits, the loss, and its gradient by every tensor of theirs."""
    targets_BL = jnp.asarray(loaded.targets)
    weights_BL = (targets_BL != 0).astype(jnp.float32)

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits_BLV = base.bind(loaded.config, params).logits(loaded.batch)
        log_probs_BLV = jax.nn.log_softmax(logits_BLV)
        picked = jnp.take_along_axis(log_probs_BLV, targets_BL[..., None], axis=-1)[..., 0]
        return -jnp.sum(picked * weights_BL) / jnp.sum(weights_BL), logits_BLV

    (value, logits_BLV), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(loaded.params)
    real = loaded.batch["decoder_target_tokens"] != 0  # the others are meaningless
    theirs = loaded.reference
    results = [
        compare("logits", np.asarray(logits_BLV)[real], theirs["logits"][real], LOGITS_LIMIT),
        compare("loss", np.asarray(value), theirs["loss"], LOGITS_LIMIT),
    ]
    flat, worst = tree.flatten(gradients), Result(what="gradients", error=0.0, limit=GRADIENT_LIMIT)
    seen = set()
    for leaf in loaded.source.leaves:
        ours_N = np.asarray(flat[leaf.path]) if leaf.stacked else [np.asarray(flat[leaf.path])]
        for name, ours in zip(leaf.names, ours_N):
            seen.add(f"grad/{name}")
            expected = theirs[f"grad/{name}"]
            error = float(np.max(np.abs(leaf.to_theirs(ours) - expected)))
            error /= max(float(np.max(np.abs(expected))), 1e-3)
            if not error <= worst.error:
                worst = dataclasses.replace(worst, what=f"gradients ({name})", error=error)
    unseen = [name for name in theirs if name.startswith("grad/") and name not in seen]
    assert not unseen, unseen
    return [*results, worst]


def _greedy(loaded: Loaded, kind: str) -> Result:
    """Greedy continuations, token for token."""
    expected = loaded.reference["generated"]
    if kind == "seq2seq":
        batch = {"encoder_input_tokens": jnp.asarray(loaded.reference["inputs/encoder"])}
    else:
        batch = {"decoder_input_tokens": jnp.asarray(loaded.reference["inputs/prompt"])}
    config = SamplingConfig(max_decode_length=expected.shape[1])
    names_B2 = jnp.zeros((len(expected), 2), jnp.uint32)  # for draws; greedy makes none
    written = jax.jit(
        lambda params, batch: generate(
            base.bind(loaded.config, params),
            batch,
            config,
            Rules(num_ids=loaded.config.vocab_size),
            names_B2,
        )
    )(loaded.params, batch)
    different = np.asarray(written.tokens_BL) != expected
    return Result(what="greedy", error=float(np.sum(different)), limit=0.0)


def _round_trip(loaded: Loaded, target: Path) -> list[Result]:
    """Exports, and compares what was written bit for bit."""
    source, flat = loaded.source, tree.flatten(loaded.params)
    export = export_lib.Export(
        config=source.config,
        like=source.folder.config,
        dtypes=source.dtypes,
        max_shard_bytes=5000,
    )
    with atomic.new_folder(target) as temporary:
        hf_folder.copy_carried(source.folder.path, temporary)
        plan = export_lib.plan_export(export)
        export_lib.write_model(temporary, plan, lambda path: np.asarray(flat[path]), lambda n: None)
    written = hf.open_model(target)
    differing = [
        name
        for name, dtype in source.dtypes.items()
        if written.dtypes[name] != dtype
        or source.folder.read(name).tobytes() != written.folder.read(name).tobytes()
    ]
    other = written.dtypes.keys() ^ source.dtypes.keys()
    same = written.config == source.config
    return [
        Result(what="round trip of tensors", error=float(len(differing) + len(other)), limit=0.0),
        Result(what="round trip of config.json", error=float(not same), limit=0.0),
    ]


def compare(what: str, ours: Any, theirs: np.ndarray, limit: float = LOGITS_LIMIT) -> Result:
    """The largest difference of two arrays of the same shape."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape, (what, ours.shape, theirs.shape)
    return Result(what=what, error=float(np.max(np.abs(ours - theirs))), limit=limit)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares our models with recorded answers.")
    parser.add_argument("folders", nargs="+", type=Path)
    sound = True
    for folder in parser.parse_args().folders:
        for result in check(folder, folder / case_lib.EXPORTED):
            sound &= result.ok
            mark = "ok" if result.ok else "DIFFERS"
            print(f"{folder.name}: {result.what}: {result.error:.2g} {mark}", flush=True)
    if not sound:
        sys.exit(1)


if __name__ == "__main__":
    main()
