"""Feed throughput in raw tokens per CPU-second, beside SeqIO's UL2 mixture in the same run.

    python tools/bench/feed.py                          # our numbers alone
    pip install --no-deps --target /tmp/t5 t5==0.9.4    # T5's preprocessors, kept outside
    python tools/bench/feed.py --t5=/tmp/t5             # and the comparison

Prints one JSON line. Rates are raw text tokens per second of CPU time. Every contestant is a
process of its own, whose CPU time counts in all threads; rounds alternate and the median counts:

    denoise             `UL2Noise.apply` on segments of 256 to 512 tokens
    convert_pack        choosing, placing, converting: the feed without noise and without reading
    noise_convert_pack  both
    feed                the whole feed, reading prepared shards
    feed_classic        the whole feed at 512/512, one segment per row, as SeqIO below
    seqio_ul2           seven T5 denoisers composed as in UL2's appendix 9.2, EOS appended
    seqio_converted     the same through SeqIO's encoder-decoder converter, 512/512, batched
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from ul2tune.data import codec, manifest, vocab
from ul2tune.data.ul2 import preset
from ul2tune.feed.config import FeedConfig
from ul2tune.feed.producers import DirectProducer
from ul2tune.feed.sources import Sources

VOCABULARY = {"kind": "pass_through", "base_size": 32000, "extra_ids": 256, "modes": "RSX"}
MODE_TOKENS = {"R": 32256, "S": 32257, "X": 32258}


def documents(count: int) -> list[np.ndarray]:
    """Documents of 100 to 2,000 tokens."""
    random = np.random.default_rng(0)
    return [
        random.integers(3, 32000, n).astype(np.int32) for n in random.integers(100, 2000, count)
    ]


def prepare(folder: Path, texts: list[np.ndarray]) -> None:
    """Writes one shard and its manifests."""
    place = manifest.task_dir(folder, "text", "train")
    place.mkdir(parents=True)
    path = place / "data-00000-of-00001.arrayrecord"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for i, text in enumerate(texts):
        writer.write(codec.encode(codec.Example(arrays={"targets": text}, fields={"id": str(i)})))
    writer.close()
    data, tokens = path.read_bytes(), {"targets": sum(map(len, texts))}
    shard = manifest.Shard(
        file=path.name,
        num_examples=len(texts),
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        tokens=tokens,
    )
    task = manifest.TaskManifest(
        task="text",
        split="train",
        shards=(shard,),
        num_examples=len(texts),
        features={"targets": {"add_eos": False, "max_tokens": 2000, **tokens}},
        vocabulary=vocab.load(VOCABULARY).to_json(),
        fingerprint=shard.sha256,
        online={"kind": "ul2", "feature": "targets", "config": preset("ul2").to_json()},
    )
    manifest.write(task, place / "manifest.json")
    mixture = manifest.MixtureManifest(name="text", tasks=("text",), rates=(1.0,))
    manifest.write(mixture, manifest.mixture_path(folder, "text"))


class OurFeed:
    """Our feed; `seconds_in_noise` counts what `UL2Noise.apply` takes of it."""

    def __init__(self, folder: Path, texts: list[np.ndarray] | None, **fields):
        config = FeedConfig(mixture="text", data_dir=str(folder), **fields)
        self.sources = Sources(config)
        self.seconds_in_noise = 0.0
        (noise,) = self.sources.noises
        apply = noise.apply

        def timed(*args):
            start = time.process_time()
            result = apply(*args)
            self.seconds_in_noise += time.process_time() - start
            return result

        noise.apply = timed  # type: ignore[method-assign]
        if texts is not None:
            examples = [codec.Example(arrays={"targets": text}) for text in texts]
            read = self.sources.tasks[0].store
            read.read = lambda indices: [examples[i] for i in indices]  # type: ignore[method-assign]
        self.producer = DirectProducer(self.sources, np.arange(config.batch_size), None)

    def run(self, batches: int) -> int:
        """Raw tokens of so many batches."""
        return sum(int(self.producer.get().counts.raw_tokens.sum()) for _ in range(batches))


def load_t5_preprocessors(folder: str):
    """T5's own preprocessors file, without the rest of its package (that wants Mesh TensorFlow)."""
    sys.modules.setdefault("babel", types.ModuleType("babel"))
    path = Path(folder) / "t5" / "data" / "preprocessors.py"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: --t5 is the folder t5 was installed into.")
    spec = importlib.util.spec_from_file_location("t5_preprocessors", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seqio_mixture(t5, texts: list[np.ndarray], *, converted: bool):
    """The seven denoisers composed of T5's preprocessors (paper, appendix 9.2), 512/512.

    One place of the inputs is kept for the mode token; each denoiser reads its shard.
    """
    import seqio
    import tensorflow as tf

    vocabulary = seqio.PassThroughVocabulary(32256, eos_id=1)
    features = {name: seqio.Feature(vocabulary) for name in ("inputs", "targets")}
    source = tf.data.Dataset.from_generator(
        lambda: ({"targets": text} for text in texts),
        output_signature={"targets": tf.TensorSpec([None], tf.int32)},
    )
    source = t5.select_random_chunk(source, features, max_length=65536, feature_key="targets")
    source = t5.reduce_concat_tokens(source, feature_key="targets", batch_size=128).repeat()
    denoisers = preset("ul2").denoisers
    parts = []
    for i, denoiser in enumerate(denoisers):
        part = source.shard(len(denoisers), i)
        if denoiser.kind == "prefix":
            part = t5.prefix_lm(part, {"inputs": 511, "targets": 511}, features)
        else:
            length, _ = t5.random_spans_helper(511, denoiser.rate, denoiser.mean_span, 1, 1)
            part = t5.split_tokens(part, feature_key="targets", max_tokens_per_segment=length)
            part = t5.denoise(
                part,
                features,
                inputs_fn=t5.noise_span_to_unique_sentinel,
                targets_fn=t5.nonnoise_span_to_unique_sentinel,
                noise_density=denoiser.rate,
                noise_mask_fn=lambda n, density, seeds, mu=denoiser.mean_span: (
                    t5.random_spans_noise_mask(n, density, seeds, mean_noise_span_length=mu)
                ),
            )
        mode = tf.constant([MODE_TOKENS[str(denoiser.mode)]])
        parts.append(
            part.map(
                lambda e, mode=mode: e | {"inputs": tf.concat([mode, e["inputs"]], 0)},
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        )
    mixed = tf.data.Dataset.sample_from_datasets(parts, seed=0)
    lengths = {"inputs": 512, "targets": 512}
    mixed = seqio.preprocessors.append_eos_after_trim(
        mixed, output_features=features, sequence_length=lengths
    )
    if converted:
        mixed = seqio.EncDecFeatureConverter(pack=False)(mixed, lengths)
    return mixed.batch(128) if converted else mixed.ragged_batch(128)


class SeqIOFeed:
    """SeqIO's pipeline, counted in the same raw tokens: no sentinel, mode, EOS or padding."""

    def __init__(self, t5_folder: str, texts: list[np.ndarray], *, converted: bool):
        t5 = load_t5_preprocessors(t5_folder)
        self.names = (
            ("encoder_input_tokens", "decoder_target_tokens")
            if converted
            else ("inputs", "targets")
        )
        self.batches = iter(seqio_mixture(t5, texts, converted=converted))
        self.seconds_in_noise = 0.0

    def run(self, batches: int) -> int:
        """Raw tokens of so many batches."""
        raw = 0
        for _ in range(batches):
            batch = next(self.batches)
            for name in self.names:
                tokens = getattr(batch[name], "flat_values", batch[name]).numpy()
                raw += int(np.count_nonzero((tokens > 1) & (tokens < 32000)))
        return raw


class Remote:
    """A contestant in a process of its own."""

    def __init__(self, make, *args, **kwargs):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, args, kwargs))
        self._process.start()
        other.close()
        self._pipe.recv()

    def run(self, batches: int) -> tuple[int, float, float]:
        """(raw tokens, CPU seconds, seconds of them in the noise)."""
        self._pipe.send(batches)
        return self._pipe.recv()

    def close(self) -> None:
        """Ends the process."""
        self._pipe.send(None)
        self._process.join()


def _serve(pipe, make, args, kwargs) -> None:
    contestant = make(*args, **kwargs)
    contestant.run(2)
    pipe.send("ready")
    while (batches := pipe.recv()) is not None:
        seconds, noise = time.process_time(), contestant.seconds_in_noise
        raw = contestant.run(batches)
        pipe.send((raw, time.process_time() - seconds, contestant.seconds_in_noise - noise))


def measure(contestants: dict[str, Remote], rounds: int, batches: int) -> dict[str, float]:
    """Median raw tokens per CPU-second; `NAME/noise` is that of the noise alone."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            raw, seconds, noise = contestant.run(batches)
            found.setdefault(name, []).append(raw / seconds)
            if noise:
                found.setdefault(f"{name}/noise", []).append(raw / noise)
                found.setdefault(f"{name}/rest", []).append(raw / (seconds - noise))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--t5", help="folder that holds the t5 package; none: no comparison")
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--batches", type=int, default=10, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--inputs", type=int, default=1024)
    parser.add_argument("--targets", type=int, default=512)
    options = parser.parse_args()
    texts = documents(options.documents)
    packed = {
        "feature_lengths": {"inputs": options.inputs, "targets": options.targets},
        "batch_size": options.batch_size,
    }
    classic = packed | {"feature_lengths": {"inputs": 512, "targets": 512}, "packing": "none"}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        prepare(folder, texts)
        contestants = {
            "memory": Remote(OurFeed, folder, texts, **packed),
            "feed": Remote(OurFeed, folder, None, **packed),
            "feed_classic": Remote(OurFeed, folder, None, **classic),
        }
        if options.t5:
            for key, converted in (("seqio_ul2", False), ("seqio_converted", True)):
                contestants[key] = Remote(SeqIOFeed, options.t5, texts, converted=converted)
        for contestant in contestants.values():
            stack.callback(contestant.close)
        found = measure(contestants, options.rounds, options.batches)
    result = {
        "bench": "feed",
        "unit": "raw tokens per CPU-second",
        "lengths": f"{options.inputs}/{options.targets}",
        "batch_size": options.batch_size,
        "denoise": found["memory/noise"],
        "convert_pack": found["memory/rest"],
        "noise_convert_pack": found["memory"],
        "feed": found["feed"],
        "feed_classic": found["feed_classic"],
    }
    if options.t5:
        result |= {
            "seqio": "t5 0.9.x preprocessors, composed as in UL2 appendix 9.2",
            "seqio_ul2": found["seqio_ul2"],
            "seqio_converted": found["seqio_converted"],
            "ratio": found["feed"] / found["seqio_ul2"],
            "ratio_classic": found["feed_classic"] / found["seqio_ul2"],
            "ratio_converted": found["feed"] / found["seqio_converted"],
        }
    print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}))


if __name__ == "__main__":
    main()
