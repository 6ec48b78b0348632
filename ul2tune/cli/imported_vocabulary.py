"""The vocabulary of an imported model, described so that tasks and inference can use it.

MODEL_DIR/vocabulary.json       the tokenizer as it came: UL2TUNE_VOCABULARY=MODEL_DIR
MODEL_DIR/vocabulary_ul2.json   for decoders: 100 sentinels and the mode tokens follow its ids
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ul2tune.convert.hf import folder as hf_folder
from ul2tune.data import tokenizer_files, vocab, vocab_tokenizer_json
from ul2tune.data.vocab_tokenizer_json import TokenizerJsonVocabulary

UL2_DESCRIPTION = "vocabulary_ul2.json"


def write(folder: Path, carried: str, config: Any, source: str) -> str:
    """Writes the descriptions; what they name is relative to their folder.

    Args:
      folder: the MODEL_DIR.
      carried: name of the folder in it that has the tokenizer's files.
      config: the model's configuration; its `vocab_size` is the rows of the embedding.
      source: where the files came from, for people: `folder` may have a temporary name.

    Returns:
      A line for people: what there is now, or why there is nothing.
    """
    num_rows: int = config.vocab_size
    try:
        description = tokenizer_files.describe(folder / carried)
        if "file" in description:
            description["file"] = f"{carried}/{description['file']}"
        if description["kind"] != vocab_tokenizer_json.KIND:
            hf_folder.write_json(folder / tokenizer_files.DESCRIPTION, description)
            return f"vocabulary in {tokenizer_files.DESCRIPTION}"
        found = vocab.load(description, root=folder)
        assert isinstance(found, TokenizerJsonVocabulary)
        # Gemma 3's text models have no row for the tokenizer's image token.
        found = dataclasses.replace(found, num_ids=min(found.num_ids, num_rows))
        with_modes = vocab_tokenizer_json.with_sentinels(found)
    except ValueError as error:
        reason = str(error).replace(str(folder / carried), source)
        return (
            f"no vocabulary ({reason}) Add the model's tokenizer files to {source} and import it "
            f"again, or set UL2TUNE_VOCABULARY to a vocabulary that is there"
        )
    for name, vocabulary in (
        (tokenizer_files.DESCRIPTION, found),
        (UL2_DESCRIPTION, with_modes),
    ):
        moved: dict[str, Any] = {**vocabulary.to_json(), "file": description["file"]}
        hf_folder.write_json(folder / name, moved)
    # Rows that are spare already (Qwen's) need no others.
    needed = num_rows if with_modes.size <= num_rows else with_modes.rows
    return (
        f"vocabulary in {tokenizer_files.DESCRIPTION}; with sentinels in {UL2_DESCRIPTION}: "
        f"REAL_ROWS = {found.size}, vocab_size = {needed}"
    )
