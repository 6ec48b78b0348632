"""Tiny folders with the tokenizers of decoders, trained on a few sentences of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

SENTENCES = (
    "The rain fell on the old harbour! Boats waited; nobody spoke.",
    "def area(width, height):\n    return width * height  # plain",
    "Wörter, 数 and emoji 🙂 are bytes in the end, aren't they?",
    "Wait! Stop!! Never!!! 12345 + 67890 = 80235",
    "A sentence about nothing in particular, and another one about the same.",
) * 3


def qwen_like(folder: Path, vocab_size: int = 330) -> Path:
    """Byte-level BPE; "!" is 0, as in GPT-2's and Qwen's order of bytes; padding ends texts."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = level(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=level.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|im_end|> $A", special_tokens=[("<|im_end|>", vocab_size + 1)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding()
    ends = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "bos_token": None}
    return _save(folder, tokenizer, ends)


def opt_like(folder: Path) -> Path:
    """The older layout: vocab.json and merges.txt; <s> 0, <pad> 1, </s> 2, <unk> 3."""
    bpe = tokenizers.ByteLevelBPETokenizer(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    bpe.train_from_iterator(SENTENCES, 320, special_tokens=specials, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save_model(str(folder))
    ends = {"bos_token": {"content": "</s>"}, "eos_token": {"content": "</s>"}}
    ends |= {"pad_token": "<pad>", "unk_token": "</s>", "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(ends))
    return folder


def llama_like(folder: Path) -> Path:
    """SentencePiece-like, byte fallback, a space before every text; <unk> 0, <s> 1, </s> 2."""
    n, d = tokenizers.normalizers, tokenizers.decoders
    tokenizer = _byte_fallback(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")])
    tokenizer.decoder = d.Sequence(
        [d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)]
    )
    tokenizer.train_from_iterator(SENTENCES, _trainer(["<unk>", "<s>", "</s>"]))
    _save(folder, tokenizer, {"unk_token": "<unk>"})
    ids = {"bos_token_id": 1, "eos_token_id": [2, 1], "pad_token_id": -1}
    (folder / "generation_config.json").write_text(json.dumps(ids))
    return folder


def gemma_like(folder: Path) -> Path:
    """SentencePiece-like without that space; <pad> 0, <eos> 1, <bos> 2, <unk> 3, <unused0> 4 …"""
    n, d = tokenizers.normalizers, tokenizers.decoders
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    unused = [f"<unused{i}>" for i in range(8)]
    tokenizer = _byte_fallback(specials)
    tokenizer.normalizer = n.Replace(" ", "▁")
    tokenizer.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse()])
    tokenizer.train_from_iterator(SENTENCES, _trainer([*specials, *unused]))
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        # As Gemma's file has it: found in text, and no special token.
        token["special"] = not token["content"].startswith("<unused")
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    names = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"}
    return _save(folder, tokenizer, {f"{name}_token": text for name, text in names.items()})


KINDS = {"qwen": qwen_like, "opt": opt_like, "llama": llama_like, "gemma": gemma_like}


def _byte_fallback(specials: list[str]) -> Any:
    model = tokenizers.models.BPE(unk_token=specials[-1], fuse_unk=True, byte_fallback=True)
    return tokenizers.Tokenizer(model)


def _trainer(specials: list[str]) -> Any:
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    return tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*specials, *bytes_], show_progress=False
    )


def _save(folder: Path, tokenizer: Any, ends: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(tokenizer.to_str())
    # The trainer makes added tokens of the bytes, too; published files do not.
    content["added_tokens"] = [
        token for token in content["added_tokens"] if not token["content"].startswith("<0x")
    ]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(ends))
    return folder
