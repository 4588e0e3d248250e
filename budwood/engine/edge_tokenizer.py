"""A WordPiece tokenizer as plain facts, so that a runner needs no tokenizer library; see `edge_text.py`.

Which characters are dropped, are spaces or stand alone is asked of the tokenizer itself, one character at a time: its
library and the Python that runs the runner may know different versions of Unicode.
"""

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from budwood.core.errors import BundleError
from budwood.engine.tokenizer_file import read_tokenizer

__all__ = ["tokenizer_facts"]

PLAIN = ("single_word", "lstrip", "rstrip", "normalized")
"""Properties of added tokens that the runner does not have."""


def tokenizer_facts(folder: Path) -> dict[str, Any]:
    """What `edge_text.Tokenizer` needs, its `vocabulary` among it.

    Raises:
        BundleError: the tokenizer is not BERT's kind of WordPiece, with the part that is not.
    """
    fields = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    check(fields, folder)
    model, normalizer = fields["model"], fields["normalizer"]
    lowercase = bool(normalizer.get("lowercase"))
    accents = normalizer.get("strip_accents")
    before, after = ends(read_tokenizer(folder), model["vocab"])
    return {
        "vocabulary": model["vocab"],
        "unknown": model["vocab"][model["unk_token"]],
        "prefix": model["continuing_subword_prefix"],
        "longest_word": model["max_input_chars_per_word"],
        "lowercase": lowercase,
        "strip_accents": lowercase if accents is None else accents,
        "special": {token["content"]: token["id"] for token in fields.get("added_tokens", ())},
        "before": before,
        "after": after,
        **kinds(bool(normalizer.get("handle_chinese_chars"))),
    }


def check(fields: Mapping[str, Any], folder: Path) -> None:
    """Raise BundleError unless the runner can express every part of the tokenizer."""
    parts = {name: (fields.get(name) or {}).get("type", "none") for name in ("model", "normalizer", "pre_tokenizer")}
    known = {"model": "WordPiece", "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
    odd = [
        f"its {name.replace('_', '-')} is {kind}, not {known[name]}"
        for name, kind in parts.items()
        if kind != known[name]
    ]
    if not odd and not fields["normalizer"].get("clean_text"):
        odd.append("it does not clean texts")
    for token in fields.get("added_tokens", ()):
        odd += [f"its token {token['content']!a} is {name}" for name in PLAIN if token.get(name)]
    if odd:
        raise BundleError(
            f"the tokenizer cannot be put into a runner: {odd[0]}",
            where=str(folder / "tokenizer.json"),
            fix="take a base with BERT's WordPiece, such as minilm-l6; `budwood export NAME` gives any model's graph",
        )


def ends(tokenizer: Any, vocabulary: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """The numbers that stand before and after every text."""
    word = next(token for token in vocabulary if token.isascii() and token.isalnum() and token.islower())
    found = tokenizer.encode(word)
    inner = [place for place, special in enumerate(found.special_tokens_mask) if not special]
    return found.ids[: inner[0]], found.ids[inner[-1] + 1 :]


@cache
def kinds(ideographs: bool) -> dict[str, list[int]]:
    """Bounds of the ranges of characters that the library drops, takes as spaces, and sets apart; takes a second."""
    from tokenizers import normalizers, pre_tokenizers

    def normalizer(**on: bool) -> Callable[[str], str]:
        off = dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False)
        made = normalizers.BertNormalizer(**(off | on))
        return lambda text: str(made.normalize_str(text))

    clean, apart, bare = (
        normalizer(clean_text=True),
        normalizer(handle_chinese_chars=True),
        normalizer(strip_accents=True),
    )
    split = pre_tokenizers.BertPreTokenizer()
    every = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    cleaned = {character: clean(f"a{character}b") for character in every}
    return {
        "removed": bounds(character for character in every if cleaned[character] == "ab"),
        "spaces": bounds(character for character in every if cleaned[character] == "a b"),
        "ideographs": bounds(character for character in every if ideographs and apart(character) == f" {character} "),
        # An accent is what is dropped although it is not made of anything else.
        "accents": bounds(character for character in every if bare(f"a{character}b") == "ab"),
        "punctuation": bounds(character for character in every if len(split.pre_tokenize_str(f"a{character}b")) == 3),
    }


def bounds(characters: Iterable[str]) -> list[int]:
    """Where ranges of characters begin and end, in one ascending list: even places begin one, odd places end it."""
    found: list[int] = []
    for code in map(ord, characters):
        if found and found[-1] == code:
            found[-1] += 1
        else:
            found += [code, code + 1]
    return found
