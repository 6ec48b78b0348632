"""Self-Instruct's pipeline over any generator: seed instructions -> new instructions and instances.

    run(seeds, Replay("recorded.jsonl"), SelfInstruct(prompts=load_prompts("prompts.json")))

1. instructions: eight in context (six of people, two generated; all of people at first) ask for
   more, which are cleaned, filtered and compared with all so far
2. for each: is it a classification task?
3. its instances: output first for classification, input first otherwise

Source: Wang et al. 2023 (arXiv:2212.10560) §2 with the requests' parameters of the
`yizhongw/self-instruct` repository. The long few-shot prompts of steps 2 and 3 are read from your
copy (:func:`load_prompts`). Every draw depends on (seed, request) alone: with a recorded generator
the result is the same on every machine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ul2tune.instructions import generation_filters as filters
from ul2tune.instructions import reading
from ul2tune.instructions.records import stable_hash

_PROMPT_KEYS = {
    "is_classification": "template_1",
    "output_first": "output_first_template_for_clf",
    "input_first": "input_first_template_for_gen",
}


@dataclass(frozen=True, kw_only=True)
class Params:
    """How to decode. A generator that lacks a setting must refuse values of it other than 0."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A generator's answer; `finish_reason` is "stop", or "length" where the limit cut it."""

    text: str
    finish_reason: str = "stop"


class Generator(Protocol):
    """A language model."""

    def generate(self, prompts: Sequence[str], params: Params) -> Sequence[Completion]:
        """One completion per prompt."""
        ...


class Replay:
    """Answers from a recording: JSON lines ``{"prompt", "text", "finish_reason"}``.

    A prompt recorded several times is answered in the recording's order.

    Raises:
      ValueError: if the file is malformed, or asked for a prompt that is not (or no more) in it.
    """

    def __init__(self, path: str | Path):
        self.path = path
        self._left: dict[str, list[Completion]] = {}
        for where, row in reading.read_rows(path):
            text = reading.string(row, "text", where)
            reason = reading.string(row, "finish_reason", where, "stop")
            answers = self._left.setdefault(reading.string(row, "prompt", where), [])
            answers.append(Completion(text=text, finish_reason=reason))

    def generate(self, prompts: Sequence[str], params: Params) -> list[Completion]:
        """The recorded completions."""
        del params
        completions = []
        for prompt in prompts:
            if not self._left.get(prompt):
                raise ValueError(
                    f"{self.path} has no answer (left) to the prompt that ends {prompt[-80:]!r}."
                )
            completions.append(self._left[prompt].pop(0))
        return completions


class Recorder:
    """Passes requests on and appends the answers to a file that `Replay` reads."""

    def __init__(self, generator: Generator, path: str | Path):
        self.generator, self.path = generator, Path(path)

    def generate(self, prompts: Sequence[str], params: Params) -> Sequence[Completion]:
        """The generator's completions."""
        completions = self.generator.generate(prompts, params)
        with self.path.open("a", encoding="utf-8") as file:
            for prompt, completion in zip(prompts, completions, strict=True):
                file.write(json.dumps({"prompt": prompt, **asdict(completion)}) + "\n")
        return completions


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Texts before what is asked.

    Attributes:
      is_classification, output_first, input_first: few-shot prompts that end in ``Task:``.
      more, more_classification: what the numbered list in step 1 follows.
    """

    is_classification: str
    output_first: str
    input_first: str
    more: str = "Come up with a series of tasks:\n"
    more_classification: str = (
        "Come up with a series of classification tasks. Try to specify the possible output labels "
        "when possible.\n"
    )


@dataclass(frozen=True, kw_only=True)
class SelfInstruct:
    """The pipeline's settings.

    Attributes:
      prompts: texts.
      num_instructions: stop when so many are kept.
      in_context, of_machine: instructions per prompt, and how many of them generated.
      batch: prompts per request.
      max_requests: give up after so many requests for instructions.
      classification: ask for classification tasks, from seeds of the kind.
      blacklist: words no instruction may have.
      max_instances: per instruction.
      compat: the authors' capitalisation (`generation_filters.clean_instruction`).
      seed: of all draws.
    """

    prompts: Prompts
    num_instructions: int = 100
    in_context: int = 8
    of_machine: int = 2
    batch: int = 5
    max_requests: int = 10_000
    classification: bool = False
    blacklist: tuple[str, ...] = filters.BLACKLIST
    max_instances: int = filters.MAX_INSTANCES
    compat: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out.

    Attributes:
      instructions: those kept, in order.
      rows: ``{"instruction", "input", "output", "is_classification"}`` per instance: what
        `self_instruct.load` reads.
      dropped: reason -> how many instructions or completions.
    """

    instructions: tuple[str, ...]
    rows: tuple[Mapping[str, str | bool], ...]
    dropped: Mapping[str, int]


def load_prompts(path: str | Path) -> Prompts:
    """Reads the few-shot prompts from JSON under the names of the authors' modules.

    ``{"template_1", "output_first_template_for_clf", "input_first_template_for_gen"}``

    Raises:
      ValueError: naming the file and the key that is missing.
    """
    data = reading.read_object(path)
    texts = {name: reading.string(data, key, str(path)) for name, key in _PROMPT_KEYS.items()}
    return Prompts(**texts)


def run(seeds: Sequence[str], generator: Generator, config: SelfInstruct) -> Result:
    """All three steps.

    Args:
      seeds: the instructions of people; with `config.classification`, of classification tasks.
      generator: answers the prompts.
      config: settings.

    Raises:
      ValueError: if there are fewer seeds than a prompt needs.
    """
    dropped: Counter[str] = Counter()
    instructions = bootstrap(seeds, generator, config, dropped)
    kinds = classify(instructions, generator, config)
    rows = make_instances(instructions, kinds, generator, config, dropped)
    return Result(instructions=tuple(instructions), rows=tuple(rows), dropped=dict(dropped))


def bootstrap(
    seeds: Sequence[str], generator: Generator, config: SelfInstruct, dropped: Counter[str]
) -> list[str]:
    """Step 1; counts in `dropped` what did not pass, and why."""
    if len(seeds) < config.in_context:
        raise ValueError(f"{config.in_context} seed instructions are needed, got {len(seeds)}.")
    params = Params(
        max_tokens=1024,
        temperature=0.7,
        top_p=0.5,
        presence_penalty=2.0,
        stop=("\n\n", "\n16", "16.", "16 ."),
    )
    pool, kept = filters.Pool(seeds), []
    for request in range(config.max_requests):
        if len(kept) >= config.num_instructions:
            break
        prompts = [_ask(seeds, kept, (request, i), config) for i in range(config.batch)]
        for completion in generator.generate(prompts, params):
            for instruction in _instructions(completion, config, dropped):
                if pool.near_duplicate(instruction) is not None:
                    dropped["near duplicate"] += 1
                    continue
                pool.add(instruction)
                kept.append(instruction)
    return kept


def classify(instructions: Sequence[str], generator: Generator, config: SelfInstruct) -> list[bool]:
    """Step 2."""
    params = Params(max_tokens=3, stop=("\n", "Task"))
    head = config.prompts.is_classification
    prompts = [f"{head} {text.strip()}\nIs it classification?" for text in instructions]
    return [
        filters.is_classification(c.text) for c in _generate(prompts, params, generator, config)
    ]


def make_instances(
    instructions: Sequence[str],
    classification: Sequence[bool],
    generator: Generator,
    config: SelfInstruct,
    dropped: Counter[str],
) -> list[dict[str, str | bool]]:
    """Step 3; an instruction without a valid instance is counted in `dropped`.

    DIVERGES: the two kinds are asked separately, so that each has its own token limit; in the
    authors' requests a single classification task lowers the limit of all in its batch.
    """
    answers: dict[int, Completion] = {}
    for kind, head, limit in (
        (True, config.prompts.output_first, 300),
        (False, config.prompts.input_first, 350),
    ):
        chosen = [i for i, is_kind in enumerate(classification) if is_kind == kind]
        prompts = [f"{head} {instructions[i].strip()}\n" for i in chosen]
        stop = (f"Example {config.max_instances + 1}", "Task:")
        params = Params(max_tokens=limit, presence_penalty=1.5, stop=stop)
        answers |= zip(chosen, _generate(prompts, params, generator, config), strict=True)
    rows: list[dict[str, str | bool]] = []
    for i, (instruction, kind) in enumerate(zip(instructions, classification, strict=True)):
        cut = answers[i].finish_reason == "length"
        found = filters.parse_instances(answers[i].text, classification=kind, cut=cut)
        valid = filters.filter_instances(found)
        if not valid:
            dropped["no valid instance"] += 1
        chosen_instances = filters.choose_instances(
            valid, instruction, seed=config.seed, maximum=config.max_instances
        )
        for instance in chosen_instances:
            row = {"instruction": instruction, **asdict(instance), "is_classification": kind}
            rows.append(row)
    return rows


def write(result: Result, path: str | Path) -> None:
    """Writes the instances as JSON lines that `self_instruct.load` reads."""
    lines = [json.dumps(dict(row), ensure_ascii=False) + "\n" for row in result.rows]
    Path(path).write_text("".join(lines), encoding="utf-8")


def encode_prompt(instructions: Sequence[str], head: str) -> str:
    """The numbered list that asks for more.

    >>> encode_prompt(["Name a  city:", "Count to ten."], "Tasks:\\n")
    'Tasks:\\n1. Name a city\\n2. Count to ten.\\n3.'
    """
    texts = [" ".join(text.split()).rstrip(":") for text in instructions]
    lines = [f"{number}. {text}\n" for number, text in enumerate(texts, start=1)]
    return f"{head}{''.join(lines)}{len(texts) + 1}."


def _ask(
    seeds: Sequence[str], machine: Sequence[str], request: tuple[int, int], config: SelfInstruct
) -> str:
    generated = _draw(machine, config.of_machine, (config.seed, "machine", *request))
    human = _draw(seeds, config.in_context - len(generated), (config.seed, "human", *request))
    shown = _draw([*generated, *human], config.in_context, (config.seed, "order", *request))
    texts = config.prompts
    head = texts.more_classification if config.classification else texts.more
    return encode_prompt(shown, head)


def _draw(items: Sequence[str], count: int, key: tuple[str | int, ...]) -> list[str]:
    """At most `count` of the items, in random order."""
    ranked = sorted(range(len(items)), key=lambda i: stable_hash(*key, i))
    return [items[i] for i in ranked[:count]]


def _instructions(completion: Completion, config: SelfInstruct, dropped: Counter[str]) -> list[str]:
    if completion.finish_reason == "length":
        dropped["cut completion"] += 1
        return []
    kept = []
    for text in filters.split_instructions(completion.text):
        instruction = filters.clean_instruction(text, compat=config.compat)
        fault = filters.instruction_fault(instruction, config.blacklist)
        if fault is None:
            kept.append(instruction)
        else:
            dropped[fault] += 1
    return kept


def _generate(
    prompts: Sequence[str], params: Params, generator: Generator, config: SelfInstruct
) -> list[Completion]:
    completions: list[Completion] = []
    for start in range(0, len(prompts), config.batch):
        completions += generator.generate(prompts[start : start + config.batch], params)
    return completions
