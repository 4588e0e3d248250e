"""Columns of molecules are told by their tokens first, so that a table of texts never waits for RDKit."""

import subprocess
import sys
from pathlib import Path

import pytest

from budwood.engine.smiles_columns import ATOMS, TOKENS, find_smiles_column, share_of_smiles

MOLECULES = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "[Na+].[Cl-]",
    "F/C=C\\\\F",
    "C%12CCCCC%12",
    "[13CH3:7]N",
    "N[C@@H](C)C(=O)O",
    "*CC",
)
WORDS = ("delivery", "refund", "OK then", "praise", "2024-11-02", "A-1023", "user@mail.com", "bäcker", "spam", "phone")


@pytest.mark.parametrize("text", MOLECULES)
def test_molecules_consist_of_tokens(text: str) -> None:
    assert TOKENS.fullmatch(text.replace("\\\\", "\\"))


@pytest.mark.parametrize("text", WORDS)
def test_words_codes_and_dates_do_not(text: str) -> None:
    assert not (TOKENS.fullmatch(text) and ATOMS.search(text))


def test_a_named_column_with_a_few_broken_cells_is_found() -> None:
    cells = ["CCO", "c1ccccc1", "CCN", "CCCl", "broken!"]
    assert share_of_smiles(cells) == pytest.approx(0.8)
    assert find_smiles_column({"mol": cells, "label": ["a"] * 5}) == "mol"
    assert find_smiles_column({"mol": ["my card", "was lost"], "label": ["a", "b"]}) is None
    assert share_of_smiles(["", " "]) == 0.0


def test_reading_texts_imports_no_rdkit(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    intents = ("delivery", "exchange", "invoice question")
    table.write_text("text,intent\n" + "".join(f"where is parcel {i},{intents[i % 3]}\n" for i in range(60)))
    code = (
        "import sys; from budwood.engine.reading import read_dataset;"
        f"assert len(read_dataset({str(table)!r}).dataset) == 60; print('rdkit' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=100)
    assert ran.stdout.strip() == "False", ran.stderr
