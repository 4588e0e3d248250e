"""From molecules to model inputs: fingerprints, tokens of SMILES, or both, as `preprocessor_config.json` says.

The same encoder serves training, evaluation, the server and screening.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import BundleError, DataError
from budwood.core.task import Arrays, Encoded, Encoder, Row
from budwood.engine.molecule_domain import Domain
from budwood.engine.molecules import Prepared, canonical, fingerprints, keys, prepare, prepared, randomised
from budwood.engine.tokenizer_file import read_tokenizer

__all__ = ["FILE", "Inputs", "encode_prepared", "open_encoder", "tokens"]

FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class Inputs:
    """What a bundle's model reads."""

    fingerprint: bool = True
    variants: int = 0
    """Spellings of each molecule whose predictions are averaged; 0 where the model reads no SMILES."""
    max_tokens: int = 128

    @classmethod
    def open(cls, folder: Path) -> "Inputs":
        """Raises BundleError when the folder does not say what its model reads."""
        path = folder / FILE
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8"))["molecules"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{FILE} cannot be read: {error}", where=str(path)) from error

    def save(self, folder: Path, *, fingerprint: bool, variants: int) -> None:
        """Write the same settings for a model that reads these inputs."""
        content = {"molecules": asdict(replace(self, fingerprint=fingerprint, variants=variants))}
        (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def open_encoder(folder: Path, *, describe: bool) -> Encoder:
    """The function from rows to inputs. `describe` adds to each row how near it is to the training molecules."""
    inputs = Inputs.open(folder)
    tokenizer = read_tokenizer(folder, inputs.max_tokens) if inputs.variants else None
    domain = Domain.open(folder) if describe else None

    def encode(rows: Sequence[Row]) -> Encoded:
        found = [prepare(row["smiles"]) for row in rows]
        arrays = encode_prepared(found, inputs, tokenizer)
        return Encoded(arrays, notes(found, arrays, domain))

    return encode


def encode_prepared(found: Sequence[Prepared], inputs: Inputs, tokenizer: Any) -> Arrays:
    """Arrays for molecules that are parsed already."""
    arrays: Arrays = {}
    if inputs.fingerprint:
        arrays["fingerprint"] = fingerprints([item.molecule for item in found])
    if tokenizer is not None:
        arrays |= tokens([spellings(item.molecule, inputs.variants) for item in found], tokenizer)
    return arrays


def notes(found: Sequence[Prepared], arrays: Arrays, domain: Domain | None) -> list[dict[str, Any]]:
    facts: list[dict[str, Any]] = [{"stripped": True} if item.stripped else {} for item in found]
    if domain is None:
        return facts
    counts = arrays["fingerprint"] if "fingerprint" in arrays else fingerprints([item.molecule for item in found])
    digests = keys([canonical(item.molecule) for item in found])
    return [near | fact for near, fact in zip(domain.describe(counts, digests), facts, strict=True)]


def spellings(molecule: Any, count: int) -> list[str]:
    """The canonical SMILES and `count - 1` random ones, always the same ones for one molecule."""
    text = canonical(molecule)
    if count == 1:
        return [text]
    again = prepared(text)  # random spellings depend on the order of the atoms, which must be the canonical one
    return [text, *randomised(molecule if again is None else again.molecule, count - 1, seed=1)]


def tokens(texts: Sequence[Sequence[str]], tokenizer: Any) -> Arrays:
    """`input_ids` and `attention_mask` of shape (molecules, spellings * width): the spellings of one side by side.

    Every molecule has the same number of spellings; the width is that of the longest. Padding has the id 0.
    """
    variants = len(texts[0])
    if any(len(group) != variants for group in texts):
        raise DataError("every molecule needs the same number of spellings", where="smiles")
    encodings = tokenizer.encode_batch([text for group in texts for text in group])
    width = max(len(item.ids) for item in encodings)
    ids: NDArray[np.int64] = np.zeros((len(encodings), width), np.int64)
    mask = np.zeros((len(encodings), width), np.int64)
    for row, item in enumerate(encodings):
        ids[row, : len(item.ids)] = item.ids
        mask[row, : len(item.ids)] = 1
    shape = (len(texts), variants * width)
    return {"input_ids": ids.reshape(shape), "attention_mask": mask.reshape(shape)}
