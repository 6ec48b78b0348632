"""The other side of peer_hf.py: Hugging Face's T5 in PyTorch, one training step per line of input.

Runs under a Python that has torch and transformers, and needs nothing else. Reads a JSON line with
the model and the batch, answers ``{"ready": …}``; then answers every line with the wall and CPU
seconds of one step.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

FEED_FORWARD = {"relu": "relu", "gelu_gated": "gated-gelu", "silu_gated": "gated-silu"}


def build(model: dict[str, Any]) -> torch.nn.Module:
    """The same T5; Hugging Face now ties the embeddings, which changes no product's size."""
    config = transformers.T5Config(
        vocab_size=model["vocab_size"],
        d_model=model["d_model"],
        d_kv=model["d_kv"],
        d_ff=model["d_ff"],
        num_layers=model["num_encoder_layers"],
        num_decoder_layers=model["num_decoder_layers"],
        num_heads=model["num_heads"],
        relative_attention_num_buckets=model["relative_buckets"],
        relative_attention_max_distance=model["relative_max_distance"],
        dropout_rate=model["dropout_rate"],
        feed_forward_proj=FEED_FORWARD[model["activation"]],
        use_cache=False,
    )
    return transformers.T5ForConditionalGeneration(config)


class Step:
    """Forward, loss with z-loss, backward, Adafactor."""

    def __init__(self, request: dict[str, Any]):
        torch.manual_seed(0)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = build(request["model"]).to(self.device).train()
        self.half = request["model"]["dtype"] == "bfloat16"
        self.forward = torch.compile(self.model) if request["compile"] else self.model
        self.z_loss = request["z_loss"]
        self.optimizer = transformers.Adafactor(
            self.model.parameters(), lr=0.01, scale_parameter=True, relative_step=False
        )
        rows, inputs, targets = (request["shape"][k] for k in ("batch", "inputs", "targets"))
        rng, vocab_size = np.random.default_rng(0), request["model"]["vocab_size"]
        source = torch.from_numpy(rng.integers(2, vocab_size, (rows, inputs)))
        self.target = torch.from_numpy(rng.integers(2, vocab_size, (rows, targets))).to(self.device)
        self.features = {
            "input_ids": source.to(self.device),
            "attention_mask": torch.ones_like(source).to(self.device),
            "decoder_input_ids": F.pad(self.target[:, :-1], (1, 0)),
        }

    def __call__(self) -> float:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            logits = self.forward(**self.features).logits.float().flatten(0, 1)
        loss = F.cross_entropy(logits, self.target.flatten())
        loss = loss + self.z_loss * torch.logsumexp(logits, -1).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()  # waits for the device


def main() -> None:
    start = time.perf_counter()
    step = Step(json.loads(sys.stdin.readline()))
    losses = [step() for _ in range(3)]  # compiles, then settles
    ready = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": sum(p.numel() for p in step.model.parameters()),
        "start_secs": round(time.perf_counter() - start, 1),
        "losses": losses,
    }
    print(json.dumps({"ready": ready}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)


if __name__ == "__main__":
    main()
