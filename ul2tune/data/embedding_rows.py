"""Whether a model has an embedding row for every id of a vocabulary."""

from __future__ import annotations

# The model's rows, for a `prepare` that a run starts.
ROWS = "UL2TUNE_MODEL_ROWS"


def check_embedding_rows(mixture: str, num_ids: int, num_rows: int) -> None:
    """Raises ValueError if the vocabulary of a mixture has more ids than the model has rows."""
    if num_ids > num_rows:
        raise ValueError(
            f"The vocabulary of {mixture!r} has {num_ids} ids but the model "
            f"{num_rows} rows. Set its vocab_size to at least {num_ids} (runs/extend.gin gives a "
            f"checkpoint more rows), or prepare the data in the model's vocabulary."
        )
