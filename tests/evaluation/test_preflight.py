"""What an evaluation needs at its end is tried before its start."""

from __future__ import annotations

import dataclasses

import pytest

from tests.checkpoints import saving
from tests.decoding import tiny
from tests.evaluation import prepared
from tests.evaluation.test_hook import EVAL
from tests.models import decoder_examples, t5gemma_examples
from tests.training import tiny as tiny_run
from ul2tune.data.vocab import ByteVocabulary
from ul2tune.decoding.sampling import SamplingConfig
from ul2tune.evaluation import groups, preflight, run
from ul2tune.evaluation.answer import Answer
from ul2tune.evaluation.hook import EvaluationHook
from ul2tune.evaluation.run import EvalConfig
from ul2tune.instructions.records import Rendered
from ul2tune.models.base import ModelConfig
from ul2tune.sharding import MeshConfig
from ul2tune.training.run import train


def wrong_number(targets, predictions):
    """A metric function that fails only where it is called."""
    return {"wrong": len(targets) / (len(predictions) - 7)}


def needs_several(targets, predictions):
    """A metric function that one example is not enough for, as a correlation."""
    return {"spread": 1.0 / (len(predictions) - 1)}


def as_in_seqio(targets, predictions):
    """A metric function that takes a target for a text."""
    return {"accuracy": sum(map(str.__eq__, map(str, targets), predictions))}


def errors(targets, predictions):
    """A metric function that is 0 for the references, and less is better."""
    return {"errors": sum(p not in references for references, p in zip(targets, predictions))}


def only_of_words(targets, predictions):
    """A metric function that is not for empty answers."""
    return {"first": float(all(text.split()[0] for text in predictions))}


def evaluate(data_dir, output, config=EVAL, model: ModelConfig = tiny.MODEL, checkpoint=None):
    """Of a checkpoint that is not there: whatever is found before is found in time."""
    path = str(checkpoint or data_dir / "no checkpoint")
    run.evaluate(model, "instructions", str(data_dir), path, MeshConfig(), str(output), config)


@pytest.mark.parametrize("folder", ["a file", "a file/deeper", "/proc/none/eval"])
def test_an_output_folder_that_cannot_be_written_to(tmp_path, folder):
    prepared.write(tmp_path)
    (tmp_path / "a file").touch()
    path = tmp_path / folder  # an absolute one stands for itself
    with pytest.raises(ValueError, match=f"EVAL_OUTPUT_DIR: {path} cannot be written to"):
        evaluate(tmp_path, path)
    assert (tmp_path / "a file").read_bytes() == b""


def test_a_folder_is_left_as_it_was_and_one_that_can_be_made_is_not_made(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("{}")
    for name in ("out", "new/out", "new/../../../new"):
        preflight.check_folder(tmp_path / name, "X")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["metrics.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ValueError, match=r"cannot be written to \(File name too long\)"):
        preflight.check_folder(tmp_path / "new" / ("x" * 256), "X")


def test_a_folder_above_what_a_link_names(tmp_path):
    (tmp_path / "other" / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to("other/run")
    (tmp_path / "out").touch()  # what the text of the path names
    preflight.check_folder(tmp_path / "link/../out", "X")
    (tmp_path / "other" / "out").touch()
    with pytest.raises(ValueError, match=r"other/out is a file"):
        preflight.check_folder(tmp_path / "link/../out", "X")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("rouge_l_gpt2", "UL2TUNE_GPT2_BPE"),
        ("spider_exact_match", "needs more than references"),
    ],
)
def test_a_metric_that_lacks_something(tmp_path, monkeypatch, metric, message):
    monkeypatch.delenv("UL2TUNE_GPT2_BPE", raising=False)
    prepared.write(tmp_path)
    config = EvalConfig(inputs_length=64, metrics=("exact_match", metric))
    expected = rf"Task 'first' cannot be scored, by EVAL_METRICS = .*{metric}.*{message}"
    with pytest.raises(ValueError, match=expected):
        evaluate(tmp_path, tmp_path / "out", config)
    with pytest.raises(ValueError, match=expected):
        EvaluationHook(3, ("instructions",), str(tmp_path), config)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:score", "cannot be imported"),
        (f"{__name__}:wrong_number", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_metric_function_that_fails(tmp_path, function, message):
    prepared.write(tmp_path, metrics=(function,))
    expected = f"Task 'first' cannot be scored by its metric function '{function}': .*{message}"
    with pytest.raises(ValueError, match=expected):
        evaluate(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=expected):
        EvaluationHook(3, ("instructions",), str(tmp_path), EVAL)


def other_errors(targets, predictions):
    return errors(targets, predictions)


def test_two_metric_functions_of_one_name(tmp_path):
    """SeqIO refuses them too: one of the numbers would be lost."""
    names = tuple(f"{__name__}:{function.__name__}" for function in (errors, other_errors))
    prepared.write(tmp_path, metrics=names)
    expected = f"'{names[1]}' gives 'errors', as another metric function of the task does"
    with pytest.raises(ValueError, match=expected):
        EvaluationHook(3, ("instructions",), str(tmp_path), EVAL)
    answers = [
        Answer(example=example, text="yes", choices=(), scores={})
        for example in run.load_set("instructions", str(tmp_path), EVAL).examples
        if example.task == "first"
    ]
    with pytest.raises(ValueError, match=expected):
        groups.declared(answers, names)
    assert groups.declared(answers, names[:1]).keys() == {"errors"}


@pytest.mark.parametrize(
    ("function", "warned"),
    [(as_in_seqio, True), (errors, False), (only_of_words, False), (needs_several, True)],
)
def test_a_metric_function_that_references_do_not_please(tmp_path, caplog, function, warned):
    """SeqIO's targets are single texts: a function for those would find no answer right."""
    prepared.write(tmp_path, metrics=(f"{__name__}:{function.__name__}",))
    EvaluationHook(3, ("instructions",), str(tmp_path), EVAL)
    found = [record.getMessage() for record in caplog.records if "empty answers" in record.message]
    assert bool(found) == warned
    if function is as_in_seqio:
        assert "'first': its metric function" in found[0]
        assert "(accuracy = 0). A target is the tuple" in found[0]


@pytest.mark.parametrize(
    ("choice", "why"),
    [("", "it is empty"), ("\u2603", "the vocabulary drops all of its characters")],
)
def test_an_answer_choice_without_tokens(tmp_path, monkeypatch, choice, why):
    """Its mean log-likelihood would be 0, above that of any other."""
    encode = ByteVocabulary.encode
    monkeypatch.setattr(  # as a vocabulary without bytes for what it does not know
        ByteVocabulary,
        "encode",
        lambda self, text, **how: encode(self, text.strip("\u2603"), **how),
    )
    monkeypatch.setitem(prepared.CHOICES, "is_long", ("yes", "no", choice))
    prepared.write(tmp_path, features={"inputs": {"add_eos": True}, "targets": {"add_eos": False}})
    expected = (
        f"Example '0' of task 'is_long' cannot be ranked: .* '{choice}' has no tokens, as {why}"
    )
    ranked = dataclasses.replace(EVAL, rank_choices=True)
    with pytest.raises(ValueError, match=expected):
        evaluate(tmp_path, tmp_path / "out", ranked)
    with pytest.raises(ValueError, match=expected):
        EvaluationHook(3, ("instructions",), str(tmp_path), ranked)
    EvaluationHook(3, ("instructions",), str(tmp_path), EVAL)
    # The end of sequence is a token.
    prepared.write(tmp_path / "ended")
    EvaluationHook(3, ("instructions",), str(tmp_path / "ended"), ranked)


def test_a_prompt_of_which_an_encoder_reads_nothing(tmp_path):
    prepared.write(tmp_path)
    rows = [(prepared.records("first", 1)[0], Rendered(inputs="", targets="x"))]
    features = {"inputs": {"add_eos": False}, "targets": {"add_eos": True}}
    prepared.write_rows(tmp_path, "first", "bare", rows, features=features)
    prepared.write_rows(tmp_path, "first", "ended", rows)
    prepared.write_task(tmp_path, "is_long", "bare")
    prepared.write_task(tmp_path, "is_long", "ended")
    bare = dataclasses.replace(EVAL, split="bare")
    expected = "The prompt of example '0' of task 'first' has no tokens, .* would read nothing"
    with pytest.raises(ValueError, match=expected):
        evaluate(tmp_path, tmp_path / "out", bare)
    with pytest.raises(ValueError, match=expected):
        EvaluationHook(3, ("instructions",), str(tmp_path), bare)
    # The end of sequence is read, and decoders read their start token.
    for config in ({"split": "ended"}, {"split": "bare", "layout": "causal_lm"}):
        fine = dataclasses.replace(EVAL, **config)
        EvaluationHook(3, ("instructions",), str(tmp_path), fine)


@pytest.mark.parametrize(
    ("max_length", "answers", "expected"),
    [
        (69, 5, None),
        (68, 5, "The prompt of example '0' of task 'first' is padded to 64 .* row of 69 tokens "),
        (68, 3, None),
        (
            67,
            3,
            "A prompt with the answer choice 'yes' is padded to 64 .* of 68 tokens ",
        ),
    ],
)
def test_prompts_too_long_for_a_model_with_their_answers(tmp_path, max_length, answers, expected):
    """Prompts are padded to 64 tokens, and the answer choice "yes" with its end to 4."""
    prepared.write(tmp_path)
    sampling = SamplingConfig(max_decode_length=answers)
    config = dataclasses.replace(EVAL, sampling=sampling, rank_choices=True, layout="prefix_lm")
    model = decoder_examples.gemma(vocab_size=264, max_length=max_length)
    hook = EvaluationHook(3, ("instructions",), str(tmp_path), config)
    if expected is None:
        hook.check_model(model)
        return
    with pytest.raises(ValueError, match=f"'instructions': {expected}"):
        hook.check_model(model)
    # Of a checkpoint that is another model's: this is found before it is loaded.
    saving.save(tmp_path / "run", 1, {"params": tiny.params()})
    with pytest.raises(ValueError, match=f"^{expected}"):
        evaluate(tmp_path, tmp_path / "out", config, model, checkpoint=tmp_path / "run")


def test_answer_choices_that_fit_are_not_spelled(tmp_path, monkeypatch):
    """It would take longer than all other checks: a suite has hundreds of thousands."""
    prepared.write(tmp_path)
    config = dataclasses.replace(EVAL, rank_choices=True)
    hook = EvaluationHook(3, ("instructions",), str(tmp_path), config)
    monkeypatch.setattr(ByteVocabulary, "decode", None)
    hook.check_model(tiny.MODEL)


def test_a_vocabulary_larger_than_the_models_stops_a_run_before_its_first_step(tmp_path):
    prepared.write(tmp_path)
    hook = EvaluationHook(3, ("instructions",), str(tmp_path), EVAL)
    small = dataclasses.replace(tiny.MODEL, vocab_size=250)
    with pytest.raises(ValueError, match=r"'instructions': .* has 259 ids but .* 250 rows"):
        hook.check_model(small)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_an_encoder_decoder_has_limits_on_either_side(tmp_path, side):
    """Prompts are padded to 64 tokens, answers have 4."""
    prepared.write(tmp_path)
    hook = EvaluationHook(3, ("instructions",), str(tmp_path), EVAL)
    model, fits = t5gemma_examples.first(vocab_size=264), {"encoder": 64, "decoder": 4}[side]
    for room in (fits, fits - 1):
        stack = dataclasses.replace(getattr(model, side), max_length=room)
        limited = dataclasses.replace(model, **{side: stack})
        if room == fits:
            hook.check_model(limited)
        else:
            with pytest.raises(ValueError, match=f"A row of {fits} tokens for the {side}"):
                hook.check_model(limited)


def test_a_hook_for_another_layout_stops_a_run_before_its_first_step(tmp_path):
    tiny_run.write_data(tmp_path / "data")
    prepared.write(tmp_path / "data")
    causal = dataclasses.replace(EVAL, layout="causal_lm")
    hook = EvaluationHook(3, ("instructions",), str(tmp_path / "data"), causal)
    arguments = tiny_run.arguments(tmp_path / "run", tmp_path / "data", train_steps=5)
    with pytest.raises(
        ValueError, match="'instructions': layout = 'causal_lm' is not for T5Config"
    ):
        train(**arguments, hooks=(hook,))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_metrics_that_can_score_are_no_obstacle(tmp_path):
    prepared.write(tmp_path, metrics=(f"{__name__}:needs_several",))
    with pytest.raises((ValueError, OSError), match="no checkpoint"):
        evaluate(tmp_path, tmp_path / "out")


def test_the_hooks_folder_stops_a_run_before_its_first_step(tmp_path):
    tiny_run.write_data(tmp_path / "data")
    prepared.write(tmp_path / "data")
    hook = EvaluationHook(3, ("instructions",), str(tmp_path / "data"), EVAL)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "evaluation").touch()
    arguments = tiny_run.arguments(tmp_path / "run", tmp_path / "data", train_steps=5)
    with pytest.raises(ValueError, match=r"MODEL_DIR, where EvaluationHook writes: .*is a file"):
        train(**arguments, hooks=(hook,))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
