"""MultiWoZ: joint accuracy of dialogue states (Budzianowski et al. 2018; UnifiedSKG's evaluator).

A prediction is text, ``hotel area north, hotel book people 2, taxi leave at none``; the state of a
turn is a set of ``domain-slot-value``. Values "none" and "not mentioned" are no part of a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ul2tune.metrics.references import context_of, paired

_ABSENT = ("not mentioned", "none")


def parse_state(text: str) -> frozenset[str]:
    """The state a text states.

    The first word of an item is the domain, the second the slot, the rest the value; after ``book``
    the slot has two words. Items of one word say nothing.
    """
    found = []
    for item in text.split(", "):
        words = item.split(" ")
        if len(words) < 2:
            continue
        end = 3 if words[1] == "book" else 2
        found.append(f"{words[0]}-{' '.join(words[1:end])}-{' '.join(words[end:])}")
    return clean_state(found)


def clean_state(items: Sequence[str]) -> frozenset[str]:
    """Drops items whose text holds "none" or "not mentioned" anywhere, as the reference does."""
    return frozenset(item for item in items if not any(word in item for word in _ABSENT))


def score_multiwoz_joint(prediction: str, references: Sequence[str]) -> float:
    """1 if the whole predicted state of the turn is right.

    Reads ``{"belief": ["domain-slot-value", …]}`` from the references' context.

    Raises:
      ValueError: if the references have no such context.
    """
    belief = context_of(references, "multiwoz_joint")["belief"]
    return float(parse_state(prediction) == clean_state(belief))


def multiwoz(targets: Sequence[Any], predictions: Sequence[str]) -> dict[str, float]:
    """Joint accuracy, slot accuracy and joint F1 in percent, with SeqIO's signature.

    Slot accuracy is over all slots of the ontology (``"num_slots"`` of the context), so that slots
    nobody mentions count as right. Raises as `references.paired`.
    """
    joint, slots, f1 = [], [], []
    for references, prediction in paired("multiwoz", targets, predictions):
        context = context_of(references, "multiwoz")
        gold, found = clean_state(context["belief"]), parse_state(prediction)
        joint.append(gold == found)
        slots.append(slot_accuracy(gold, found, context["num_slots"]))
        f1.append(joint_f1(gold, found))
    count = len(joint)
    return {
        "multiwoz_joint": 100.0 * sum(joint) / count,
        "multiwoz_slot": 100.0 * sum(slots) / count,
        "multiwoz_f1": 100.0 * sum(f1) / count,
    }


def slot_accuracy(gold: frozenset[str], found: frozenset[str], num_slots: int) -> float:
    """Share of slots with the right value; a slot with a wrong one counts once."""
    missed = gold - found
    slots = {item.rsplit("-", 1)[0] for item in missed}
    invented = [item for item in found - gold if item.rsplit("-", 1)[0] not in slots]
    return (num_slots - len(missed) - len(invented)) / num_slots


def joint_f1(gold: frozenset[str], found: frozenset[str]) -> float:
    """F1 of the two sets; two empty ones agree."""
    if not gold and not found:
        return 1.0
    return 2.0 * len(gold & found) / (len(gold) + len(found))
