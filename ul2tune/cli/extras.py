"""Which extra of this package installs a module that is missing."""

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


def remedy(module: str | None) -> str:
    """`" Install it with pip install 'ul2tune[…]'."`, or nothing for modules of nobody's extra."""
    extra = EXTRAS.get((module or "").partition(".")[0])
    return f" Install it with pip install 'ul2tune[{extra}]'." if extra else ""
