"""Transformers' side: writes cases, and loads what we exported. Needs torch and transformers only.

python -m tools.parity.reference make FAMILY DIR [--seed=N] [--only_goldens]
python -m tools.parity.reference verify FAMILY DIR
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from safetensors.numpy import save_file

from tools.parity import case as case_lib
from tools.parity.case import Case


def cases_of(family: str) -> tuple[Case, ...]:
    return importlib.import_module(f"tools.parity.{family}").CASES


def randomise(model: Any, seed: int) -> None:
    """Draws all parameters: every product keeps its scale, norms and biases differ from 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # tied ones once
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)


def make(family: str, root: Path, seed: int, only_goldens: bool) -> None:
    """Writes a folder per case below `root`."""
    for number, case in enumerate(cases_of(family)):
        if only_goldens and not case.golden:
            continue
        torch.manual_seed(seed + number)
        model = case.build().eval()
        case.adjust(model)
        randomise(model, seed + number)
        folder = root / case.name
        saved = copy.deepcopy(model).to(getattr(torch, case.dtype))
        saved.save_pretrained(folder / case_lib.MODEL, max_shard_size=case.max_shard_size)
        with torch.no_grad():  # the same weights, yet no rounded frequencies of rotations
            for parameter in model.parameters():
                parameter.copy_(parameter.to(saved.dtype))
        inputs = case_lib.make_inputs(case.kind, model.config.vocab_size, seed + number)
        # Sub-modules are for finding what differs; in the tree they would only take room.
        arrays = answers(case, model, inputs, () if only_goldens else case.taps)
        contiguous = {name: np.array(x, order="C") for name, x in {**inputs, **arrays}.items()}
        save_file(contiguous, folder / case_lib.REFERENCE)
        facts = {
            "family": family,
            "case": case.name,
            "kind": case.kind,
            "class": type(model).__name__,
            "seed": seed + number,
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
        }
        (folder / case_lib.FACTS).write_text(json.dumps(facts, indent=1) + "\n")


def answers(
    case: Case, model: Any, inputs: dict[str, np.ndarray], tapped: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Everything in reference.safetensors but the inputs."""
    taps: dict[str, Any] = {}

    def tap(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            first = args[0] if args else next(iter(kwargs.values()))
            result = output[0] if isinstance(output, tuple | dict) else output
            if isinstance(first, torch.Tensor) and f"tap/{name}/in" not in taps:
                taps[f"tap/{name}/in"], taps[f"tap/{name}/out"] = first, result

        return model.get_submodule(name).register_forward_hook(hook, with_kwargs=True)

    handles = [tap(name) for name in tapped]
    logits, loss = forward(case, model, inputs)
    for handle in handles:
        handle.remove()
    loss.backward()
    named = ((case.saved_as(name), p.grad) for name, p in model.named_parameters())
    grads = {f"grad/{name}": grad for name, grad in named if grad is not None}
    tensors = {"logits": logits, "loss": loss, **grads, **taps}
    arrays = {name: value.detach().float().numpy() for name, value in tensors.items()}
    return {**arrays, "generated": generate(case, model, inputs)}


def forward(case: Case, model: Any, inputs: dict[str, np.ndarray]) -> tuple[Any, Any]:
    """Logits and loss of a teacher-forced pass."""
    tokens = {name.split("/")[1]: torch.tensor(x).long() for name, x in inputs.items()}
    if case.kind == "seq2seq":
        source, targets = tokens["encoder"], tokens["targets"]
        logits = model(
            input_ids=source,
            attention_mask=(source != 0).long(),
            decoder_input_ids=F.pad(targets, (1, -1), value=case.start_id),
            use_cache=False,
        ).logits
    else:
        read = tokens["tokens"]
        logits = model(input_ids=read, attention_mask=(read != 0).long(), use_cache=False).logits
        targets = F.pad(read, (-1, 1))
    return logits, F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=0)


def generate(case: Case, model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Greedy continuations, int32 [B, NEW_TOKENS], 0 behind the end."""
    seq2seq = case.kind == "seq2seq"
    prompt = torch.tensor(inputs["inputs/encoder" if seq2seq else "inputs/prompt"]).long()
    starts = {"decoder_start_token_id": case.start_id} if seq2seq else {}
    with torch.no_grad():
        tokens = model.generate(
            input_ids=prompt,
            attention_mask=(prompt != 0).long(),
            do_sample=False,
            num_beams=1,
            max_new_tokens=case_lib.NEW_TOKENS,
            pad_token_id=0,
            suppress_tokens=[0],  # as we do: padding is no text
            **starts,
        )
    new = tokens[:, (1 if seq2seq else prompt.shape[1]) :].numpy().astype(np.int32)
    return np.pad(new, ((0, 0), (0, case_lib.NEW_TOKENS - new.shape[1])))


def verify(family: str, root: Path) -> bool:
    """Whether every exported model loads and computes exactly what the original does."""
    sound = True
    for case in cases_of(family):
        folder = root / case.name
        facts = json.loads((folder / case_lib.FACTS).read_text())
        reference = case_lib.read_reference(folder)
        model, report = getattr(transformers, facts["class"]).from_pretrained(
            folder / case_lib.EXPORTED, dtype=torch.float32, output_loading_info=True
        )
        case.adjust(model.eval())
        inputs = {name: x for name, x in reference.items() if name.startswith("inputs/")}
        # With gradients, as the reference: PyTorch chooses other kernels without.
        logits, _ = forward(case, model, inputs)
        keys = {name: sorted(report[name]) for name in ("missing_keys", "unexpected_keys")}
        if case.absent is not None:
            found = keys["missing_keys"]
            keys["missing_keys"] = [key for key in found if not re.fullmatch(case.absent, key)]
        same = np.array_equal(logits.detach().numpy(), reference["logits"])
        greedy = np.array_equal(generate(case, model, inputs), reference["generated"])
        ok = same and greedy and not any(keys.values())
        sound &= ok
        print(f"{family}/{case.name}: exported model {'equal' if ok else f'DIFFERS {keys}'}")
    return sound


def main() -> None:
    parser = argparse.ArgumentParser(description="Reference models of Transformers.")
    parser.add_argument("action", choices=("make", "verify"))
    parser.add_argument("family")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only_goldens", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.action == "make":
        make(options.family, options.directory, options.seed, options.only_goldens)
    elif not verify(options.family, options.directory):
        sys.exit(1)


if __name__ == "__main__":
    main()
