"""Rendering throughput of PromptSource templates, in examples per CPU-second of one core.

    python tools/bench/render.py                                # templates of its own
    python tools/bench/render.py --templates=…/promptsource/templates/super_glue/cb/templates.yaml

Prints one JSON line. An example is what a task does per row: columns renamed, choices and prompt
rendered in the sandbox, split, stripped. `plain` inserts columns and picks a choice, `loop` builds
its choices in a loop. Rounds alternate and the median counts. With `--templates`, its templates
are timed on `--row`, a JSON object, each alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from typing import Any

from ul2tune.instructions.promptsource import templates as promptsource
from ul2tune.instructions.promptsource.templates import Prompt, Template

PLAIN = Template(
    name="plain",
    id="plain",
    where="bench",
    jinja="{{passage}}\nIs it so that {{claim}}? Yes or no? ||| {{ answer_choices[label] }}",
    answer_choices="Yes ||| No",
)
LOOP = Template(
    name="loop",
    id="loop",
    where="bench",
    jinja="{{claim}}{% for o in options %}\n- {{ o }}{% endfor %} ||| {{ answer_choices[label] }}",
    answer_choices="{{ options | join('|||') }}",
)
ROW = {
    "passage": "The ferry leaves the northern pier at nine and is back before the tide turns. " * 4,
    "claim": "the ferry is back before the tide turns",
    "options": ["at nine", "before the tide", "never", "after dark"],
    "label": 1,
}


def examples_per_second(prompt: Prompt, row: Mapping[str, Any], count: int) -> float:
    """Renders the row `count` times."""
    start = time.process_time()
    for seed in range(count):
        promptsource.render(prompt, row, seed=seed)
    return count / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--templates", help="a templates.yaml")
    parser.add_argument("--row", default=json.dumps(ROW), help="a row for it, as JSON")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    templates, row = (PLAIN, LOOP), json.loads(arguments.row)
    if arguments.templates:
        templates = promptsource.load(arguments.templates).templates
    prompts = [template.compile() for template in templates]
    rates: dict[str, list[float]] = {prompt.template.name: [] for prompt in prompts}
    for _ in range(arguments.rounds):
        for prompt in prompts:
            rate = examples_per_second(prompt, row, arguments.count)
            rates[prompt.template.name].append(rate)
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    print(json.dumps({"bench": "render", "unit": "examples/cpu_s/core", **medians}))


if __name__ == "__main__":
    main()
