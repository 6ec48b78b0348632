"""The command line: sub-commands, flags, messages for what is misspelt. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence

from ul2tune.nearest import did_you_mean

DESCRIPTION = "From UL2 pretraining to instruction tuning: one program, configured by gin files."
EPILOG = "Every command takes --help. Start with `ul2tune demo` or `ul2tune init DIR`."
# command -> (module with `run(options)`, one line of help)
COMMANDS = {
    "prepare": ("ul2tune.cli.prepare", "tokenise a SeqIO task or mixture into indexed shards"),
    "train": ("ul2tune.cli.train", "pretrain, continue or fine-tune, as the gin files say"),
    "evaluate": ("ul2tune.cli.evaluate", "score a checkpoint on the tasks of a mixture"),
    "infer": ("ul2tune.cli.infer", "generate answers to the prompts of a file or stdin"),
    "import": ("ul2tune.cli.convert", "turn a Transformers or T5X model into a checkpoint"),
    "export": ("ul2tune.cli.convert", "turn a checkpoint into a Transformers or T5X model"),
    "merge": ("ul2tune.cli.merge", "average or interpolate checkpoints, or add task vectors"),
    "inspect": (
        "ul2tune.cli.inspect",
        "show what a run would see of a mixture, or what checkpoints hold",
    ),
    "demo": ("ul2tune.cli.demo", "all stages, small, on the embedded corpus, with a report"),
    "init": ("ul2tune.cli.init", "write a project (gin/, tasks/) to start from"),
}
# Formats of `import` and `export`.
CONVERSIONS = ("hf", "t5x")
GIN_COMMANDS = ("prepare", "train", "evaluate", "infer", "inspect")
_GIN_FLAGS = ("--gin_file", "--gin_search_paths", "--print_config")
_PROCESS_FLAGS = ("--coordinator_address", "--process_count", "--process_index")
# Of `inspect`, when it is about a mixture.
_MIXTURE_FLAGS = (
    "--task", "--split", "--rows", "--batches", "--width", "--steps", "--against", "--report",
    *_GIN_FLAGS,
)  # fmt: skip


class UsageError(Exception):
    """The command line itself is wrong; the message says what to type instead."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See `{self.prog} --help`.")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line. `gin` becomes a list of (name, value) pairs from `--gin.NAME=VALUE`.

    Raises:
      UsageError: for unknown commands and flags, naming the nearest one.
    """
    parser = _Parser(prog="ul2tune", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    flags = {}
    for name, (_, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        _ARGUMENTS[name](sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        flags[name] = [flag for action in sub._actions for flag in action.option_strings]
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        hint = did_you_mean(argv[0], COMMANDS, cutoff=0.5)
        raise UsageError(f"There is no command {argv[0]!r}{hint}.")
    # argparse would take an unknown flag with a space in it for a positional argument.
    bindings = [argument for argument in argv if argument.startswith("--gin.")]
    options, unknown = parser.parse_known_args([a for a in argv if a not in bindings])
    if options.command is None:
        parser.print_help()
        raise SystemExit(2)
    if options.command in GIN_COMMANDS:
        options.gin = [_binding(argument) for argument in bindings]
    else:
        options.gin, unknown = [], unknown + bindings
    for argument in unknown:
        flag = argument.partition("=")[0]
        known = [*flags[options.command], "--gin.NAME=VALUE"]
        hint = did_you_mean(flag, known, cutoff=0.5)
        if flag.lstrip("-").isupper():
            hint = f" (did you mean '--gin.{flag.lstrip('-')}=…'?)"
        raise UsageError(f"`ul2tune {options.command}` has no argument {argument!r}{hint}.")
    _check_all_count(options, {argument.partition("=")[0] for argument in argv})
    return options


def _binding(argument: str) -> tuple[str, str]:
    name, equals, value = argument.removeprefix("--gin.").partition("=")
    if not equals:
        raise UsageError(f"{argument} has no value: write {argument}=VALUE.")
    return name, value


def _check_all_count(options: argparse.Namespace, given: Collection[str]) -> None:
    """Refuses flags that the other arguments leave without effect.

    Raises:
      UsageError: for the first of them.
    """
    what = f"`ul2tune {options.command}`"
    gin = [f"--gin.{name}" for name, _ in options.gin]
    if options.command == "inspect" and options.checkpoints:
        for flag in (*_MIXTURE_FLAGS, *gin):
            if flag in given:
                raise UsageError(
                    f"{what} shows checkpoints as they are: leave out {flag}, or leave out the "
                    f"checkpoints to inspect a mixture."
                )
    elif options.command == "inspect":
        if "--json" in given:
            raise UsageError("--json is about a checkpoint: name one.")
        if "--report" in given and "--against" not in given:
            raise UsageError("--report is about what is shared with a mixture: give --against.")
    elif options.command == "evaluate" and options.outputs:
        for flag in (*_PROCESS_FLAGS, "--multiprocess", *_GIN_FLAGS, *gin):
            if flag in given:
                raise UsageError(f"{what} averages outputs as they are: leave out {flag}.")
    elif options.command == "evaluate":
        for flag in ("--tasks", "--report"):
            if flag in given:
                raise UsageError(f"{flag} is about outputs to average: name their folders.")
    if getattr(options, "multiprocess", False):
        for flag in _PROCESS_FLAGS:
            if flag in given:
                raise UsageError(f"--multiprocess finds the cluster by itself: leave out {flag}.")


def _gin_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Further flags: --gin.NAME=VALUE sets a macro (--gin.BATCH_SIZE=32) or a parameter by its "
        "class (--gin.T5Config.remat=dots), after all gin files."
    )
    parser.add_argument(
        "--gin_file", action="append", default=[], metavar="FILE",
        help="a gin file (repeatable); looked up here, in ./gin and in the shipped gin/",
    )  # fmt: skip
    parser.add_argument(
        "--gin_search_paths",
        default="",
        metavar="DIRS",
        help="more folders to look in, comma-separated",
    )
    parser.add_argument(
        "--print_config", action="store_true", help="print the resolved configuration and stop"
    )


def _distributed_arguments(parser: argparse.ArgumentParser) -> None:
    _gin_arguments(parser)
    group = parser.add_argument_group("several processes")
    group.add_argument("--coordinator_address", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--process_count", type=_at_least(1), metavar="N", help="how many")
    group.add_argument("--process_index", type=_at_least(0), metavar="I", help="from 0")
    group.add_argument(
        "--multiprocess", action="store_true",
        help="join the cluster that JAX detects by itself (TPU pods, Slurm, Open MPI)",
    )  # fmt: skip


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "outputs", nargs="*", metavar="OUTPUT",
        help="evaluates nothing, but averages the scores in these EVAL_OUTPUT_DIRs of one "
        "checkpoint (0-shot, 5-shot, …) over prompts, tasks, categories and shots",
    )  # fmt: skip
    parser.add_argument(
        "--tasks", metavar="FILE", help="with OUTPUTs: JSON of tasks to merge, see docs/mixing.md"
    )
    parser.add_argument(
        "--report",
        default="averages.json",
        metavar="FILE",
        help="with OUTPUTs: where the averages go",
    )
    _distributed_arguments(parser)


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints", nargs="*", metavar="CHECKPOINT",
        help="instead of a mixture: a MODEL_DIR, one step's folder, or a Transformers or T5X "
        "model; and a second one to compare it with",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="with CHECKPOINTs: print JSON")
    parser.add_argument(
        "--all", action="store_true",
        help="every task of a large mixture; with CHECKPOINTs: also optimiser state",
    )  # fmt: skip
    _gin_arguments(parser)
    parser.add_argument("--task", help="show only this task of the mixture")
    parser.add_argument("--split", help="which split (default: FeedConfig.split, 'train')")
    parser.add_argument(
        "--rows", type=_at_least(0), default=2, metavar="N", help="rows to show (default: 2)"
    )
    parser.add_argument(
        "--batches",
        type=_at_least(1),
        default=50,
        metavar="N",
        help="batches to measure on how full rows are (default: 50)",
    )
    parser.add_argument(
        "--width", type=_at_least(1), default=100, help="columns of the output (default: 100)"
    )
    parser.add_argument(
        "--steps", type=_at_least(1), metavar="N",
        help="training steps to count epochs for (default: TRAIN_STEPS of the gin files)",
    )  # fmt: skip
    parser.add_argument(
        "--against", metavar="MIXTURE",
        help="report examples that share 13-grams with this prepared mixture's training split",
    )  # fmt: skip
    parser.add_argument(
        "--report", default="contaminated.jsonl", metavar="FILE",
        help="where --against writes them and what they share (default: contaminated.jsonl)",
    )  # fmt: skip


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", default="runs/demo", help="where to work (default: runs/demo)")
    parser.add_argument(
        "--fresh", action="store_true", help="start over instead of resuming what is there"
    )


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", metavar="DIR", help="a folder without gin/ and tasks/; made if it is not there"
    )


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "format", choices=CONVERSIONS, help="what SOURCE is: Transformers' or T5X's"
    )
    parser.add_argument(
        "source", metavar="SOURCE",
        help="a folder; for hf also a repository's name, for t5x also gs://…",
    )  # fmt: skip
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="a new or empty folder")
    parser.add_argument(
        "--step", type=int, metavar="N",
        help="steps the model was trained for; a run that starts from it counts on (default: 0; "
        "t5x: as stored)",
    )  # fmt: skip
    parser.add_argument("--revision", metavar="REV", help="hf: branch, tag or commit")
    parser.add_argument(
        "--text_only", action="store_true", default=None,
        help="hf: leave out T5Gemma 2's vision part, which is refused otherwise",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", metavar="FIELD=VALUE",
        help="t5x: a field of T5Config (decoder-only: DecoderConfig) that the checkpoint does not "
        "show, such as activation=silu_gated for UL2-20B (repeatable)",
    )  # fmt: skip
    _optimizer_state_argument(parser)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=CONVERSIONS, help="which program will read it")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a MODEL_DIR or one step's folder")
    parser.add_argument("directory", metavar="DIR", help="a new or empty folder; t5x: any folder")
    parser.add_argument(
        "--like", metavar="DIR",
        help="hf: the model this one started from (the MODEL_DIR of its import, or its folder), "
        "whose tokenizer files, dtypes and config.json are used",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("stored", "float32", "bfloat16", "float16"), default="stored",
        help="of the written weights (default: as imported, else float32)",
    )  # fmt: skip
    parser.add_argument(
        "--max_shard_size", type=float, metavar="GB", help="hf: largest file (default: 5)"
    )
    parser.add_argument(
        "--layout", choices=("plain", "scanned"),
        help="t5x: an array per layer, or all layers in one (default: as imported, else scanned "
        "for umT5 and plain for the others)",
    )  # fmt: skip
    parser.add_argument(
        "--t5x_format", choices=("legacy", "orbax"),
        help="t5x: msgpack and zarr, or Orbax (default: legacy)",
    )  # fmt: skip
    _ema_argument(parser)
    _optimizer_state_argument(parser)


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Without --weights: the average. With --weights=0.3,0.7: an interpolation. With --base: "
        "base + the sum of weight x (checkpoint - base), weights 1 unless given."
    )
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="a MODEL_DIR or one step's folder"
    )
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="a new or empty folder")
    parser.add_argument(
        "--last",
        type=_at_least(1),
        metavar="K",
        help="take the newest K checkpoints of one MODEL_DIR",
    )
    parser.add_argument("--weights", metavar="W,…", help="a number for each checkpoint")
    parser.add_argument("--base", metavar="CHECKPOINT", help="what they all started from")
    parser.add_argument(
        "--step", type=int, metavar="N", help="step of the result (default: the latest of theirs)"
    )
    _ema_argument(parser)


def _ema_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ema", action="store_true",
        help="take the moving average of the parameters (RunConfig.ema_decay)",
    )  # fmt: skip


def _optimizer_state_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no_optimizer_state", action="store_true", default=None,
        help="t5x: leave out Adafactor's state",
    )  # fmt: skip


_ARGUMENTS = {
    "import": _import_arguments,
    "export": _export_arguments,
    "prepare": _gin_arguments,
    "train": _distributed_arguments,
    "evaluate": _evaluate_arguments,
    "infer": _distributed_arguments,
    "merge": _merge_arguments,
    "inspect": _inspect_arguments,
    "demo": _demo_arguments,
    "init": _init_arguments,
}


def _at_least(minimum: int) -> Callable[[str], int]:
    """The type of a count."""

    def count(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} must be at least {minimum}")
        return value

    count.__name__ = "int"  # argparse names it in its errors
    return count
