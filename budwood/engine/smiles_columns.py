"""Which column of a table holds SMILES: by its name where its cells agree, else by the share of cells that parse."""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from budwood.engine.columns import MOLECULE_NAMES, plain_name

__all__ = ["NAMES", "find_smiles_column", "share_of_smiles"]

NAMES = MOLECULE_NAMES | {"smile", "smi", "mol", "molecule", "structure"}
"""Column names that mean molecules, where their cells do too."""
LEAST = 0.8
"""Share of parsable cells in a column with such a name; real tables hold some broken molecules."""
LEAST_UNNAMED = 0.95
LENGTH = 6.0
"""Mean characters of a column that is taken without such a name: short words such as OK and NO are molecules too."""
CELLS = 50
MANY = 0.5
"""Share of cells that look like SMILES from which RDKit is asked."""
TOKENS = re.compile(
    r"(?:Br|Cl|[BCNOPSFIbcnops*]|\[[A-Za-z0-9@+\-*:]{1,30}\]|[-=#$:/\\.~<>()]|%\d\d|%\(\d{1,5}\)|\d)+", re.ASCII
)
"""The tokens of SMILES: atoms that need no brackets, atoms in brackets, bonds, branches, ring numbers. Hardly a word of
any language consists of them, so that RDKit, which takes a second to import, is asked about likely columns only."""
ATOMS = re.compile(r"[BCNOPSFIbcnops\[]")


def find_smiles_column(columns: Mapping[str, Sequence[str]]) -> str | None:
    """The column of molecules, or None when no column, or more than one without a telling name, looks like it.

    Args:
        columns: names to cells; the first 50 filled ones of each are looked at.
    """
    named = [name for name in columns if plain_name(name) in NAMES]
    named.sort(key=lambda name: plain_name(name) not in MOLECULE_NAMES)
    for name in named:
        share = share_of_smiles(columns[name])
        if share >= LEAST or (share > 0 and plain_name(name) in MOLECULE_NAMES):
            return name
    if find_spec("rdkit") is None:  # without it, ids and words look like molecules
        return None
    likely = [name for name, cells in columns.items() if is_likely(cells)]
    return likely[0] if len(likely) == 1 else None


def is_likely(cells: Sequence[str]) -> bool:
    filled = [cell.strip() for cell in cells if cell.strip()][:CELLS]
    if not filled or sum(map(len, filled)) < LENGTH * len(filled):
        return False
    numeric = all(cell.replace(".", "", 1).lstrip("+-").isdigit() for cell in filled)
    return not numeric and share_of_smiles(filled) >= LEAST_UNNAMED


def share_of_smiles(cells: Sequence[str]) -> float:
    """The share of filled cells that are molecules. Without RDKit only the tokens are looked at.

    So too where these say that most cells are none, whatever their column is called.
    """
    filled = [cell.strip() for cell in cells if cell.strip()][:CELLS]
    if not filled:
        return 0.0
    plausible = [cell for cell in filled if TOKENS.fullmatch(cell) and ATOMS.search(cell)]
    if len(plausible) >= MANY * len(filled) and find_spec("rdkit") is not None:
        from budwood.engine.molecules import prepared

        plausible = [cell for cell in plausible if prepared(cell) is not None]
    return len(plausible) / len(filled)
