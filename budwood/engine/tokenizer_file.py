"""The tokenizer of a model's folder, as every task on texts or SMILES reads it; numpy and tokenizers only."""

from pathlib import Path
from typing import Any

from budwood.core.errors import BundleError

__all__ = ["read_tokenizer"]


def read_tokenizer(folder: Path, max_tokens: int | None = None) -> Any:
    """The tokenizer, unpadded, and cut at `max_tokens` or not at all: files often carry settings of their own.

    Raises:
        BundleError: tokenizer.json is missing or cannot be read.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every kind of failure
        raise BundleError(f"tokenizer.json cannot be read: {error}", where=str(path)) from error
    tokenizer.no_padding()
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_length=max_tokens)
    return tokenizer
