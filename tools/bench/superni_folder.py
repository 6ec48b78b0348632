"""Makes a folder like Super-NaturalInstructions', of any number of tasks, to measure `prepare` on.

    python tools/bench/superni_folder.py /tmp/superni --tasks=1600 --instances=400

The text is words of Python's own documentation. An eighth of the tasks is for tests, a third has
three answers. By default tasks have up to 6,500 instances, as the real ones (2.3 MB a file).
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import random
from pathlib import Path
from typing import Any

MOST_INSTANCES = 6500
CATEGORIES = 76


class Writer:
    """Writes tasks, each from its number alone."""

    def __init__(self, folder: Path, most: int):
        self.folder, self.most = folder, most
        self.words = "\n".join(pydoc_data.topics.topics.values()).split()

    def task(self, number: int) -> str:
        """Writes a task's file; returns the task's name."""
        rng, name = random.Random(number), f"task{number:04d}_synthetic_kind{number % CATEGORIES}"
        if self.most < MOST_INSTANCES:
            count = rng.randrange(self.most // 4, self.most)
        else:
            count = max(20, int(rng.betavariate(1.1, 1.1) * MOST_INSTANCES))
        classes = ["Yes", "No", "Maybe"] if number % 3 == 0 else None
        length = rng.choice([15, 30, 60, 120, 200])

        def instance(index: int) -> dict[str, Any]:
            text = self._prose(rng, max(5, int(rng.gauss(length, length / 4))))
            answer = rng.choice(classes) if classes else self._prose(rng, rng.randrange(1, 20))
            return {"id": f"{name}-{index:x}", "input": text, "output": [answer]}

        def demo() -> dict[str, str]:
            made = instance(0)
            explanation = self._prose(rng, 20)
            return {"input": made["input"], "output": made["output"][0], "explanation": explanation}

        content = {
            "Categories": [f"Category {number % CATEGORIES}"],
            "Definition": [self._prose(rng, 60)],
            "Positive Examples": [demo() for _ in range(3)],
            "Negative Examples": [demo() for _ in range(2)],
            "Instances": [instance(index) for index in range(count)],
            "Instance License": ["Apache 2.0"],
        }
        path = self.folder / "tasks" / f"{name}.json"
        path.write_text(json.dumps(content, indent=4))
        return name

    def _prose(self, rng: random.Random, num_words: int) -> str:
        start = rng.randrange(len(self.words) - num_words)
        return " ".join(self.words[start : start + num_words])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--instances", type=int, default=MOST_INSTANCES)
    options = parser.parse_args()
    splits = options.folder / "splits" / "default"
    for path in (options.folder / "tasks", splits):
        path.mkdir(parents=True, exist_ok=True)
    writer = Writer(options.folder, options.instances)
    names = [writer.task(number) for number in range(options.tasks)]
    first_test = len(names) - len(names) // 8
    (splits / "train_tasks.txt").write_text("\n".join(names[:first_test]) + "\n")
    (splits / "test_tasks.txt").write_text("\n".join(names[first_test:]) + "\n")


if __name__ == "__main__":
    main()
