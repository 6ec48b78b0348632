"""Tk-Instruct's prompts: definition, positive and negative examples, query, within a token budget.

Source: Wang et al. 2022 (arXiv:2204.07705) and the collator of the Tk-Instruct repository; byte
for byte its text.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from ul2tune.instructions.records import Demo, Record, Rendered, stable_hash
from ul2tune.instructions.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TkInstruct:
    """What goes into a prompt, under Tk-Instruct's names for it; the default is its default run.

    Attributes:
      task_name: start with the task's name.
      definition: state the definition.
      positive, negative: at most so many examples of each kind.
      explanations: add the examples' explanations.
      max_tokens: budget of the prompt, end of sequence included.
    """

    task_name: bool = False
    definition: bool = True
    positive: int = 2
    negative: int = 0
    explanations: bool = False
    max_tokens: int = 1024


# The five encodings among which Tk-Instruct's `tk_instruct` mode draws one per example.
MIXED_ENCODINGS = (
    TkInstruct(positive=0),
    TkInstruct(definition=False),
    TkInstruct(),
    TkInstruct(negative=2),
    TkInstruct(explanations=True),
)


def render(
    record: Record,
    seed: int,
    *,
    encodings: Sequence[TkInstruct] = (TkInstruct(),),
    tokenizer: Tokenizer | None = None,
    random_reference: bool = True,
) -> Rendered:
    """Renders a record as Tk-Instruct does.

    With two demos the prompt is

        Definition: {definition}.

         Positive Example 1 -
        Input: {input}.
         Output: {output}.

         Positive Example 2 -
        …
        Now complete the following example -
        Input: {input}.
        Output:␣

    where a full stop is added only after text that does not end in punctuation. Demos are added
    one by one while the prompt stays within the budget, up to the first that does not fit. A
    prompt that is still too long is cut from the right, its query included, and loses what the
    vocabulary does not know.

    Args:
      record: its demos' order is kept.
      seed: with the record's id, decides encoding and reference.
      encodings: one is drawn per example where there are several.
      tokenizer: counts tokens; None = no budget.
      random_reference: train on a random reference instead of the first.

    DIVERGES: Tk-Instruct draws encoding and reference anew whenever it meets an example; here the
    seed and the id decide, so that every epoch has the same prepared prompt.
    """
    draw = stable_hash(seed, "encoding", record.task, record.id)
    encoding = encodings[draw % len(encodings)]
    query = _closed("Now complete the following example -\nInput: ", record.input) + "\nOutput: "
    name = f"{record.task}. " if encoding.task_name else ""
    definition = _closed("Definition: ", record.instruction) + "\n\n" if encoding.definition else ""
    positives: list[str] = []
    negatives: list[str] = []
    demo_ids: list[str] = []
    left_out = False
    kinds = ((False, positives, encoding.positive), (True, negatives, encoding.negative))
    for negative, shown, limit in kinds:
        candidates = [demo for demo in record.demos if demo.negative == negative]
        for number, demo in enumerate(candidates[:limit], start=1):
            text = _render_demo(demo, number, encoding.explanations)
            # As Tk-Instruct: the budget is checked without the task's name, and with a space more
            # between examples of a kind.
            whole = definition + " ".join(positives) + " ".join(negatives) + text + query
            if tokenizer is not None and len(tokenizer.encode(whole)) + 1 > encoding.max_tokens:
                left_out = True
                break
            shown.append(text)
            demo_ids.append(demo.id or f"{'negative' if negative else 'positive'}-{number}")
    inputs = "".join((name, definition, *positives, *negatives, query))
    cut = False
    if tokenizer is not None:
        ids = tokenizer.encode(inputs)
        cut = len(ids) + 1 > encoding.max_tokens
        inputs = _known(ids[: encoding.max_tokens], tokenizer) if cut else inputs
    reference = stable_hash(seed, "reference", record.task, record.id) if random_reference else 0
    return Rendered(
        inputs=inputs,
        targets=record.targets[reference % len(record.targets)],
        answer_choices=record.answer_choices or (),
        demo_ids=tuple(demo_ids),
        truncated=cut or left_out,
    )


def _known(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    # Tk-Instruct decodes without special tokens, of which the unknown is one. Left in, it would be
    # the text " ⁇ ", and that is a piece of its own.
    # DIVERGES: Transformers of its day also drop the space before a full stop or a comma here.
    unknown = getattr(tokenizer, "unk_id", None)
    return tokenizer.decode([token for token in ids if token != unknown])


def _closed(prefix: str, text: str) -> str:
    # Tk-Instruct looks at the last character of what it has built so far, prefix included.
    whole = prefix + text.strip()
    return whole if whole[-1] in string.punctuation else whole + "."


def _render_demo(demo: Demo, number: int, explanations: bool) -> str:
    kind = "Negative" if demo.negative else "Positive"
    text = _closed(f" {kind} Example {number} -\nInput: ", demo.input) + "\n"
    text += _closed(" Output: ", demo.target) + "\n"
    if explanations and demo.explanation is not None:
        text += _closed(" Explanation: ", demo.explanation) + "\n"
    return text + "\n"
