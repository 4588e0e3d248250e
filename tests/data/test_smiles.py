"""The reader of molecules: which files it claims, and which columns it takes."""

from pathlib import Path

import pytest

from budwood.core import registry
from budwood.core.errors import DataError

pytest.importorskip("rdkit", reason="molecules need the extra chem")

READER = registry.get("data", "smiles")()


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "claimed"),
    [
        ("a.smi", "CCO ethanol\n", True),
        ("a.csv", "smiles,active\nCCO,1\nCCN,0\n", True),
        ("a.csv", "Canonical SMILES,active\nCCO,1\nCCN,0\n", True),
        ("a.csv", "mol,Class\nCCOCCN,1\nCCNCCl,0\n", True),
        ("a.csv", "mol,Class\nmy card was lost,1\nwhere is it,0\n", False),
        ("a.csv", "compound,y\nCCOCCOCC,1\nc1ccccc1C,0\n", True),
        ("a.csv", "text,label\nOK,1\nNO,0\n", False),
        ("a.csv", "text,label\nhello there,1\nbye,0\n", False),
        ("a.csv", "price,label\n12.50000,1\n13.40000,0\n", False),
        ("a.jsonl", '{"smiles": "CCO", "label": 1}\n', True),
        ("a.csv", "", False),
        ("a.png", "smiles\nCCO\n", False),
    ],
)
def test_a_file_with_molecules_is_claimed(tmp_path: Path, name: str, text: str, claimed: bool) -> None:
    assert READER.claims(write(tmp_path, name, text)) is claimed


def test_binary_files_and_folders_are_not_claimed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xff\xfe\x00\x80smiles\n")
    assert not READER.claims(path)
    assert not READER.claims(tmp_path)
    assert not READER.claims(tmp_path / "none.csv")


def test_rows_without_molecule_or_label_are_left_out_and_listed(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "name,smiles,active\nx,CCO,1\ny,C(,0\nz,CCN,\nw,CCC,0\n")
    reading = READER.read(path, None, None, None)
    assert [dict(row) for row in reading.dataset] == [{"smiles": "CCO", "label": "1"}, {"smiles": "CCC", "label": "0"}]
    assert [(place.number, reason) for place, reason in reading.skipped] == [
        (3, "'C(' is not SMILES"),
        (4, "it has no label"),
    ]
    assert any(line.startswith("target=active") for line in reading.notes)


def test_columns_of_0_and_1_are_several_targets(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "NR-AR,SR-p53,mol_id,smiles\n0,,T1,CCO\n1,1,T2,CCN\n,,T3,CCC\n")
    reading = READER.read(path, None, None, None)
    assert [row["label"] for row in reading.dataset] == [
        {"NR-AR": "0", "SR-p53": None},
        {"NR-AR": "1", "SR-p53": "1"},
    ]
    named = READER.read(path, "NR-AR,SR-p53", None, None)
    assert named.dataset.rows == reading.dataset.rows
    with pytest.raises(DataError, match="no column 'NR-XX'"):
        READER.read(path, "NR-AR,NR-XX", None, None)


def test_numbers_stay_numbers_and_splits_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "smiles,logS,split\nCCO,-0.5,train\nCCN,1.25,test\nCCC,2,train\n")
    rows = READER.read(path, "logS", None, None).dataset.rows
    assert [(row["label"], row["split"]) for row in rows] == [(-0.5, "train"), (1.25, "test"), (2.0, "train")]


def test_decimal_commas_are_read_and_what_may_be_thousands_is_refused(tmp_path: Path) -> None:
    decimal = write(tmp_path, "a.csv", 'smiles,y\nCCO,"1,5"\nCCN,"2,25"\nCCC,3\n')
    assert [row["label"] for row in READER.read(decimal, None, None, None).dataset] == [1.5, 2.25, 3.0]
    for odd in ('"1,200"', "50%"):
        either = write(tmp_path, "b.csv", f"smiles,y\nCCO,{odd}\nCCN,950\nCCC,700\n")
        with pytest.raises(DataError, match="two ways") as caught:
            READER.read(either, None, None, None)
        assert odd.strip('"') in caught.value.cause


def test_several_candidates_are_asked_about(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "smiles,weight,logS\n" + "".join(f"{'C' * i},{i},{i / 2}\n" for i in range(1, 30)))
    with pytest.raises(DataError, match="label") as caught:
        READER.read(path, None, None, None)
    assert "--target" in caught.value.fix


def test_a_library_gives_rows_to_predict_but_none_to_learn(tmp_path: Path) -> None:
    path = write(tmp_path, "a.smi", "# a comment\nsmiles name\nCCO ethanol\nC( broken one\n\nCCN\tamine\n")
    assert READER.inputs(path, None) == [{"smiles": "CCO"}, {"smiles": "C("}, {"smiles": "CCN"}]
    with pytest.raises(DataError, match="no labels"):
        READER.read(path, None, None, None)


def test_a_table_with_a_cell_too_long_for_a_molecule_is_not_claimed(tmp_path: Path) -> None:
    text = "text,label\n" + '"' + ("a line of a long letter\n" * 10_000) + '",1\nshort,0\n'
    assert not READER.claims(write(tmp_path, "letters.csv", text))
