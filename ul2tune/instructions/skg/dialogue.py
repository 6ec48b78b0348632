"""Dialogue states as UnifiedSKG writes MultiWoZ: what was said, the ontology, the state.

i need a train || where do you live? | hello | none | …
hotel-area: north, south; hotel-stars: none; …
hotel area north, hotel stars none, …
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

DOMAINS = ("hotel", "train", "restaurant", "attraction", "taxi")


def history(user: Sequence[str], system: Sequence[str]) -> str:
    """The dialogue from its last user utterance back.

    Args:
      user: utterances in order.
      system: what the system said before each of them ("none" before the first).

    Returns:
      the last utterance, ``||``, and the earlier ones in pairs.

    Raises:
      ValueError: if there are not equally many, or none.
    """
    if len(user) != len(system) or not user:
        raise ValueError(f"{len(user)} user and {len(system)} system utterances; they alternate.")
    earlier = [
        f"{said.strip()} | {heard.strip()}" for said, heard in zip(user[-2::-1], system[-2::-1])
    ]
    # At the first turn a separator stays without anything after it.
    earlier = earlier if len(user) > 1 else []
    return f"{user[-1]} || {system[-1]} | {' | '.join(earlier)}".lower()


def linearize(ontology: Mapping[str, Sequence[str]]) -> str:
    """Slots with their possible values; "none" where any text may stand."""
    slots = (f"{slot}: {', '.join(values) or 'none'}; " for slot, values in ontology.items())
    return "".join(slots).lower()


def target(slots: Sequence[str], belief: Mapping[str, str]) -> str:
    """The state of all slots in the ontology's order, hyphens as spaces."""
    items = (f"{slot}-{belief.get(slot, 'none').strip()}" for slot in slots)
    return ", ".join(item.replace("-", " ") for item in items).lower()


def tracked(ontology: Iterable[str]) -> tuple[str, ...]:
    """The slots of the five domains that are tracked, as the ontology spells them."""
    return tuple(slot for slot in ontology if slot.split("-")[0] in DOMAINS)


def slots_of(ontology: Iterable[str]) -> tuple[str, ...]:
    """The tracked slots as states spell them: lower case, no spaces but in bookings."""
    names = map(str.lower, tracked(ontology))
    return tuple(name if "book" in name else name.replace(" ", "") for name in names)
