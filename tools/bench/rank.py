"""Speed of rank classification: the program of `ul2tune evaluate`, on random prompts and choices.

    python tools/bench/rank.py --gin_file=tools/bench/t5_1_1_d256.gin --inputs=256 --choices=4
    python tools/bench/rank.py --gin_file=models/t5_1_1_base.gin --inputs=512 --batch=64

Prints one JSON line. As many pairs of prompt and choice are scored twice, in turns: choices of one
prompt, which an encoder-decoder encodes once, and every choice with a prompt of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import jax
import numpy as np
from decode import Bench
from step import Shape, arguments_of, parse_values


def secs(bench: Bench, per_prompt: int, num_pairs: int, choice_tokens: int) -> float:
    """To score so many pairs, `per_prompt` choices after each prompt."""
    random = np.random.default_rng(0)
    vocab, length = bench.model.vocab_size, len(bench.prompts[0])
    prompts_PL = random.integers(2, vocab, (num_pairs // per_prompt, length), np.int32)
    targets = random.integers(2, vocab, (num_pairs, choice_tokens), np.int32)
    inputs = list(np.repeat(prompts_PL, per_prompt, axis=0))
    start = time.perf_counter()
    bench.predictor.score(inputs, list(targets))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmarks rank classification.")
    parser.add_argument("--gin_file", action="append", required=True, help="model, mesh")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--choices", type=int, default=4)
    parser.add_argument("--choice_tokens", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options, rest = parser.parse_known_args()
    values = parse_values(parser, rest)
    shape = Shape(batch=options.batch, inputs=options.inputs, targets=options.choice_tokens)
    bench = Bench(arguments_of(options.gin_file, values, shape), options.batch, options.inputs)
    pairs = options.prompts * options.choices

    def both() -> list[float]:
        return [secs(bench, k, pairs, options.choice_tokens) for k in (options.choices, 1)]

    both()  # compiles
    rounds = [both() for _ in range(options.rounds)]
    shared, apart = (statistics.median(column) for column in zip(*rounds))
    line = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "dtype": bench.model.dtype,
        **{name: getattr(options, name) for name in ("batch", "inputs", "choices")},
        "pairs": pairs,
        "prompt_shared_ms": round(1e3 * shared, 1),
        "prompt_per_choice_ms": round(1e3 * apart, 1),
        "pairs_per_sec": round(pairs / shared),
        "speedup": round(apart / shared, 2),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
