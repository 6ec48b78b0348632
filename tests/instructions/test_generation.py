"""The pipeline over a generator that makes things up by rule: what passes, and twice the same."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from ul2tune.instructions import generation, self_instruct
from ul2tune.instructions.generation import (
    Completion,
    Params,
    Prompts,
    Recorder,
    Replay,
    SelfInstruct,
)
from ul2tune.instructions.records import stable_hash

SEEDS = [f"Seed {word} number {i} {word[::-1]}." for i, word in enumerate("abcdefghijkl")]
PROMPTS = Prompts(
    is_classification="K\n\nTask:", output_first="C\n\nTask:", input_first="G\n\nTask:"
)
CONFIG = SelfInstruct(prompts=PROMPTS, num_instructions=12, batch=3, max_requests=8, seed=5)


class Fake:
    """A generator; `asked` are the requests."""

    def __init__(self):
        self.asked: list[tuple[str, Params]] = []

    def generate(self, prompts, params):
        self.asked += [(prompt, params) for prompt in prompts]
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt):
        number = stable_hash(prompt) % 10**6
        instruction = prompt.splitlines()[-1]
        if prompt.startswith("Come up"):
            if number % 5 == 0:
                return Completion(text=" cut", finish_reason="length")
            unusual = " ".join(f"w{number}x{i}" for i in range(6))
            return Completion(
                text=f" {unusual} Paris\n10. too short\n11. {SEEDS[0]}\n12. draw me a big cat"
            )
        if prompt.startswith("K"):
            return Completion(text=" Yes" if number % 2 else " No")
        if prompt.startswith("C"):
            return Completion(text=f"Class label: a\nfor {instruction}\nClass label: b\nagain")
        return Completion(
            text="Example 1\nx\nOutput: y\nExample 2\nz\nOutput:" if number % 3 else "?"
        )


def test_pipeline():
    fake = Fake()
    result = generation.run(SEEDS, fake, CONFIG)
    assert len(result.instructions) >= 12
    assert len(set(result.instructions)) == len(result.instructions)
    assert all(text.endswith(" Paris") for text in result.instructions)
    assert {"too short", "near duplicate", "blacklisted word"} <= set(result.dropped)
    assert result.dropped["too short"] == result.dropped["blacklisted word"]
    kinds = {row["is_classification"] for row in result.rows}
    assert kinds == {True, False}
    counts = Counter(row["instruction"] for row in result.rows)
    assert len(counts) + result.dropped.get("no valid instance", 0) == len(result.instructions)
    assert all(row["input"] != "z" for row in result.rows)


def test_requests():
    fake = Fake()
    generation.run(SEEDS, fake, CONFIG)
    more = [prompt for prompt, _ in fake.asked if prompt.startswith("Come up")]
    assert more[0].startswith("Come up with a series of tasks:\n1. Seed ")
    assert all(prompt.endswith("\n9.") for prompt in more)
    assert sum("Paris" in line for line in more[0].splitlines()) == 0
    assert sum("Paris" in line for line in more[-1].splitlines()) == 2
    assert len(set(more)) == len(more)
    params = {prompt[:1] + prompt[4:5]: p for prompt, p in fake.asked}.values()
    assert {(p.max_tokens, p.temperature, p.presence_penalty) for p in params} == {
        (1024, 0.7, 2.0),
        (3, 0.0, 0.0),
        (300, 0.0, 1.5),
        (350, 0.0, 1.5),
    }
    asked = next(prompt for prompt, _ in fake.asked if prompt.startswith("K"))
    assert asked.endswith("Paris\nIs it classification?")


def test_compat_loses_names():
    result = generation.run(SEEDS, Fake(), replace(CONFIG, compat=True))
    assert all(text.endswith(" paris") for text in result.instructions)


def test_classification_only():
    fake = Fake()
    generation.run(SEEDS, fake, replace(CONFIG, classification=True))
    assert fake.asked[0][0].startswith("Come up with a series of classification tasks.")


def test_seed_decides():
    assert generation.run(SEEDS, Fake(), CONFIG) == generation.run(SEEDS, Fake(), CONFIG)
    other = generation.run(SEEDS, Fake(), replace(CONFIG, seed=6))
    assert other.instructions != generation.run(SEEDS, Fake(), CONFIG).instructions


def test_a_barren_generator_ends():
    class Barren(Fake):
        def _answer(self, prompt):
            return Completion(text=f" {SEEDS[0]}")

    result = generation.run(SEEDS, Barren(), CONFIG)
    assert (result.instructions, result.rows) == ((), ())
    assert result.dropped == {"near duplicate": 24}


def test_recording_and_replay(tmp_path):
    path, fake = tmp_path / "recorded.jsonl", Fake()
    result = generation.run(SEEDS, Recorder(fake, path), CONFIG)
    assert len(path.read_text().splitlines()) == len(fake.asked)
    assert generation.run(SEEDS, Replay(path), CONFIG) == result
    with pytest.raises(ValueError, match=r"recorded\.jsonl has no answer \(left\) to the prompt"):
        generation.run(SEEDS, Replay(path), replace(CONFIG, seed=6))
    with pytest.raises(ValueError, match=r"has no answer \(left\)"):
        Replay(path).generate([fake.asked[0][0]] * 2, fake.asked[0][1])


def test_what_is_written_is_a_collection(tmp_path):
    result = generation.run(SEEDS, Fake(), CONFIG)
    path = tmp_path / "all_instances.jsonl"
    generation.write(result, path)
    records = list(self_instruct.load(path))
    assert [(r.instruction, r.input, r.targets[0]) for r in records] == [
        (row["instruction"], row["input"], row["output"]) for row in result.rows
    ]
    assert {r.category for r in records} == {"classification", "generation"}


def test_too_few_seeds():
    with pytest.raises(ValueError, match="8 seed instructions are needed, got 3"):
        generation.run(SEEDS[:3], Fake(), CONFIG)


def test_prompts_are_read(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"template_1": "a", "output_first_template_for_clf": "b"}))
    with pytest.raises(ValueError, match="'input_first_template_for_gen' must be a string"):
        generation.load_prompts(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        generation.load_prompts(path)


def test_the_authors_prompts(shared):
    prompts = generation.load_prompts(shared / "data/self_instruct/prompt_templates.json")
    texts = (prompts.is_classification, prompts.output_first, prompts.input_first)
    assert all(text.endswith("\n\nTask:") for text in texts)
    seeds = self_instruct.load(shared / "data/self_instruct/seed_tasks.jsonl")
    config = replace(CONFIG, num_instructions=3, prompts=replace(prompts, more="Come up:\n"))
    result = generation.run([r.instruction for r in seeds], Fake(), config)
    assert len(result.instructions) >= 3
