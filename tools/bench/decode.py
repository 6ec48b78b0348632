"""Speed of generation: the very program of `ul2tune evaluate` and `infer`, on random prompts.

    python tools/bench/decode.py --gin_file=tools/bench/t5_1_1_d256.gin --inputs=256 --batch=8
    python tools/bench/decode.py --gin_file=models/llama3_2_1b.gin --gin.LAYOUT="'causal_lm'"

Prints one JSON line. No row ends before `--tokens`. Reading the prompts is timed by itself (one
token), and the loop over tokens as what further tokens take. The beams of a prompt are one row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import jax
import numpy as np
from step import Shape, arguments_of, parse_values

from ul2tune import sharding
from ul2tune.data.vocab_info import VocabInfo
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation.predictor import Predictor
from ul2tune.models import base


class Bench:
    """A model with random parameters, and prompts of one length."""

    def __init__(self, arguments: dict[str, Any], batch: int, inputs: int, beams: int = 1):
        model, mesh = arguments["model"], sharding.make_mesh(arguments["mesh"])
        shapes = base.abstract_params(model)
        make = jax.jit(
            lambda key: base.in_compute_dtype(model, base.init_params(model, key)),
            out_shardings=sharding.param_shardings(shapes, base.param_axes(model), mesh),
        )
        layout = arguments["data"].layout
        rows = np.random.default_rng(0).integers(2, model.vocab_size, (batch, inputs))
        self.model, self.prompts, self.beams = model, list(rows.astype(np.int32)), beams
        self.predictor = Predictor(
            model,
            make(jax.random.key(0)),
            mesh,
            # An id that is never generated ends rows: all are as long as asked.
            info=VocabInfo(vocab_size=model.vocab_size, num_sentinels=0, eos_id=model.vocab_size),
            num_ids=model.vocab_size,
            batch_size=batch,
            length_buckets=(inputs,),
            layout=None if layout == "encoder_decoder" else layout,
        )

    def secs(self, tokens: int) -> float:
        """One batch with so many tokens per row."""
        start = time.perf_counter()
        names = [str(n) for n in range(len(self.prompts))]
        sampling = SamplingConfig(max_decode_length=tokens, num_beams=self.beams)
        self.predictor.generate(self.prompts, names, sampling)
        return time.perf_counter() - start

    def report(self, tokens: int, rounds: int) -> dict[str, Any]:
        """Everything there is to say, from medians of `rounds` runs."""
        for length in (1, tokens):
            self.secs(length)  # compiles
        pairs = [(self.secs(1), self.secs(tokens)) for _ in range(rounds)]
        first, whole = (statistics.median(column) for column in zip(*pairs))
        per_token = (whole - first) / (tokens - 1)
        return {
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "jax": jax.__version__,
            "dtype": self.model.dtype,
            "scan_layers": self.model.scan_layers,
            "batch": len(self.prompts),
            "inputs": len(self.prompts[0]),
            "tokens": tokens,
            "beams": self.beams,
            "first_token_ms": round(1e3 * first, 2),
            "token_ms": round(1e3 * per_token, 3),
            "tokens_per_sec": round(len(self.prompts) / per_token),
            "whole_ms": round(1e3 * whole, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmarks generation.")
    parser.add_argument("--gin_file", action="append", required=True, help="model, mesh")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options, rest = parser.parse_known_args()
    values = parse_values(parser, rest)
    shape = Shape(batch=options.batch, inputs=options.inputs, targets=options.tokens)
    arguments = arguments_of(options.gin_file, values, shape)
    bench = Bench(arguments, options.batch, options.inputs, options.beams)
    print(json.dumps(bench.report(options.tokens, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
