"""Molecules as SMILES texts: parse within limits, strip salts, canonicalise, fingerprint, vary the spelling.

Everything that RDKit does for Budwood is in this file; it needs the extra `chem`, in training and in serving.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import DataError, require

__all__ = [
    "BITS",
    "MAX_ATOMS",
    "MAX_CHARACTERS",
    "Prepared",
    "canonical",
    "fingerprints",
    "keys",
    "prepare",
    "prepared",
    "problem",
    "quoted",
    "randomised",
    "scaffold",
]

MAX_CHARACTERS = 2_000
MAX_ATOMS = 500
"""Heavy atoms. Larger molecules are polymers and proteins, which need other models and cost seconds."""
BITS = 2048
RADIUS = 2
"""Morgan fingerprints of radius 2 are ECFP4 (Rogers and Hahn 2010)."""
KEY_BYTES = 16


class Prepared(NamedTuple):
    """A molecule that passed the limits, without salts and solvents."""

    molecule: Any
    """RDKit's object of the largest fragment."""
    stripped: bool
    """Whether smaller fragments were dropped."""


def chemistry() -> Any:
    """The module `rdkit.Chem`. Raises MissingExtraError when RDKit is not installed."""
    return require("rdkit.Chem", extra="chem")


@cache
def parser(sanitize: bool) -> Any:
    """Strict SMILES: no names after a blank, no CXSMILES extensions."""
    parameters = chemistry().SmilesParserParams()
    parameters.parseName = False
    parameters.allowCXSMILES = False
    parameters.sanitize = sanitize
    return parameters


@cache
def generator() -> Any:
    generators = require("rdkit.Chem.rdFingerprintGenerator", extra="chem")
    return generators.GetMorganGenerator(radius=RADIUS, fpSize=BITS)


def quiet() -> Any:
    """A context in which RDKit writes nothing to standard error, whatever the caller's own settings."""
    return require("rdkit.rdBase", extra="chem").BlockLogs()


def prepare(smiles: str) -> Prepared:
    """The molecule of a SMILES text, without salts.

    Raises:
        DataError: it is empty, too long, too large, not SMILES, or chemically impossible.
    """
    found = problem(smiles)
    if found:
        raise DataError(f"{quoted(smiles)} {found}", where="smiles", fix="send one molecule as SMILES, such as CCO")
    result = prepared(smiles)
    assert result is not None  # `problem` has parsed it
    return result


def prepared(smiles: str) -> Prepared | None:
    """The same for bulk work: None where `prepare` would raise."""
    text = smiles.strip()
    if not text or len(text) > MAX_CHARACTERS or not text.isascii():
        return None
    chem = chemistry()
    with quiet():
        try:
            molecule = chem.MolFromSmiles(text, parser(True))
        except (RuntimeError, ValueError):  # RDKit's invariants, on odd input
            return None
    if molecule is None or not 0 < molecule.GetNumHeavyAtoms() <= MAX_ATOMS:
        return None
    if "." not in text:
        return Prepared(molecule, False)
    fragments = chem.GetMolFrags(molecule, asMols=True)
    if len(fragments) == 1:
        return Prepared(molecule, False)
    return Prepared(max(fragments, key=importance), True)


def importance(fragment: Any) -> tuple[bool, int, str]:
    """What makes a fragment the parent of a salt: it has carbon, then it is the largest; ties by its SMILES."""
    carbon = any(atom.GetAtomicNum() == 6 for atom in fragment.GetAtoms())
    return carbon, fragment.GetNumHeavyAtoms(), chemistry().MolToSmiles(fragment)


def problem(smiles: str) -> str:
    """What is wrong with a SMILES text, as the end of a sentence; empty when nothing is."""
    text = smiles.strip()
    if not text:
        return "is empty"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text):,} characters, at most {MAX_CHARACTERS:,} are read"
    if not text.isascii() or any(character.isspace() for character in text):
        return "has a blank or a character that SMILES does not have"
    chem = chemistry()
    with quiet():
        try:
            molecule = chem.MolFromSmiles(text, parser(False))
            if molecule is None:
                return "is not SMILES"
            if molecule.GetNumHeavyAtoms() == 0:
                return "has no heavy atom"
            if molecule.GetNumHeavyAtoms() > MAX_ATOMS:
                return f"has {molecule.GetNumHeavyAtoms():,} heavy atoms, at most {MAX_ATOMS} are read"
            chem.SanitizeMol(molecule)
        except (RuntimeError, ValueError) as error:
            return f"is no possible molecule: {str(error).strip().splitlines()[0]}"
    return "" if prepared(smiles) is not None else "is no possible molecule"


def quoted(smiles: str) -> str:
    return ascii(smiles if len(smiles) <= 60 else smiles[:59] + "…")


def canonical(molecule: Any) -> str:
    """The one spelling that all SMILES of this molecule share, with stereochemistry."""
    text: str = chemistry().MolToSmiles(molecule)
    return text


def scaffold(molecule: Any) -> str:
    """The Bemis-Murcko scaffold (1996): rings and the chains between them; empty for a molecule without rings."""
    murcko = require("rdkit.Chem.Scaffolds.MurckoScaffold", extra="chem")
    with quiet():
        try:
            text: str = murcko.MurckoScaffoldSmiles(mol=molecule, includeChirality=False)
        except (RuntimeError, ValueError):  # a scaffold that cannot be sanitised: the molecule stands for itself
            return canonical(molecule)
    return text


def fingerprints(molecules: Sequence[Any]) -> NDArray[np.uint8]:
    """Morgan fingerprints as counts of at most 255, shape (molecules, 2048); above 0 they are the usual bits."""
    morgan = generator()
    result = np.zeros((len(molecules), BITS), np.uint8)
    for row, molecule in zip(result, molecules, strict=True):
        np.minimum(morgan.GetCountFingerprintAsNumPy(molecule), 255, out=row, casting="unsafe")
    return result


def keys(canonicals: Sequence[str]) -> NDArray[np.uint8]:
    """A digest of each canonical SMILES, shape (molecules, 16): two molecules are the same when their keys are."""
    digests = b"".join(hashlib.sha256(text.encode()).digest()[:KEY_BYTES] for text in canonicals)
    return np.frombuffer(digests, np.uint8).reshape(-1, KEY_BYTES)


def randomised(molecule: Any, count: int, seed: int) -> list[str]:
    """`count` other spellings of the same molecule, the same ones for the same seed and RDKit (Bjerrum 2017)."""
    texts = chemistry().MolToRandomSmilesVect(molecule, count, randomSeed=seed & 0x7FFFFFFF)
    return list(texts)
