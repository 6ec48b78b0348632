"""`ul2tune evaluate`: score a checkpoint on the tasks of a mixture, or average what was scored."""

from __future__ import annotations

import argparse
import json

import jax

from ul2tune import atomic, strict_json
from ul2tune.checkpoints import agreement, initialize
from ul2tune.cli import distributed, launch
from ul2tune.cli.prepared import for_run, prepare_missing
from ul2tune.evaluation import averages, preflight, report
from ul2tune.evaluation.run import evaluate

ROOTS = (prepare_missing, evaluate)


def run(options: argparse.Namespace) -> None:
    if options.outputs:
        _average(options)
        return
    config = launch.load(options, roots=ROOTS)
    index = distributed.initialize(options)
    with agreement.together():
        arguments = config.arguments(evaluate)
        if index == 0:  # before data is prepared, which takes hours
            initialize.find(arguments["checkpoint_path"])
            preflight.check_folder(arguments["output_dir"], "EVAL_OUTPUT_DIR")
    with for_run(model=arguments["model"]):
        config.call(prepare_missing, process_index=index)
    table = evaluate(**arguments)
    if jax.process_index() == 0:
        print("\n".join(report.lines(table)))
        print(f"Wrote predictions.jsonl and metrics.json to {arguments['output_dir']}.")


def _average(options: argparse.Namespace) -> None:
    """Averages several outputs; writes all of it and prints the means."""
    table = averages.combine(options.outputs, options.tasks)
    text = json.dumps(strict_json.finite(table), ensure_ascii=False, indent=1, sort_keys=True)
    atomic.write_text(options.report, text + "\n")
    for line in averages.lines(table):
        print(line)
    print(f"Wrote {options.report}.")
