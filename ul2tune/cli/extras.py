"""Which extra of this package installs a module that is missing, or what to take in its place."""

from __future__ import annotations

# Importable module -> the extra of pyproject.toml that installs it.
EXTRAS = {
    "seqio": "prepare",
    "tensorflow": "prepare",
    "tensorflow_text": "prepare",
    "tensorflow_datasets": "prepare",
    "importlib_resources": "prepare",
    "jinja2": "prepare",
    "yaml": "prepare",
    "apache_beam": "beam",
    "google_crc32c": "beam",
    "rouge_score": "eval",
    "sacrebleu": "eval",
    "huggingface_hub": "hf",
    "tokenizers": "hf",
    "matplotlib": "report",
}
# What else users' files import -> what to do.
_ELSEWHERE = {
    "t5x": " T5X's gin files configure T5X. Ours, in gin/, have classes of their own, and T5X's "
    "names for macros (docs/gin.md).",
}


def remedy(module: str | None) -> str:
    """`" Install it with pip install 'ul2tune[…]'."`, or nothing for modules we know nothing of."""
    name = (module or "").partition(".")[0]
    extra = EXTRAS.get(name)
    return (
        f" Install it with pip install 'ul2tune[{extra}]'." if extra else _ELSEWHERE.get(name, "")
    )
