"""Molecules: limits, salts, one canonical spelling, fingerprints and the domain."""

from pathlib import Path

import numpy as np
import pytest

from budwood.core.errors import BundleError, DataError

pytest.importorskip("rdkit", reason="molecules need the extra chem")

from budwood.engine import molecules
from budwood.engine.molecule_domain import Domain, Neighbours, domain_of, pack


@pytest.mark.parametrize(
    ("smiles", "cause"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("C(", "is not SMILES"),
        ("(" * 900, "is not SMILES"),
        ("C1CC", "is not SMILES"),
        ("CCO ethanol", "has a blank"),
        ("CÖ", "a character that SMILES does not have"),
        ("C" * 2001, "2,001 characters"),
        ("C" * 501, "501 heavy atoms"),
        ("CN(C)(C)(C)C", "no possible molecule: Explicit valence for atom # 1 N"),
        ("[H][H]", "has no heavy atom"),
        ("*", "has no heavy atom"),
    ],
)
def test_what_is_no_molecule_is_refused_with_the_reason(
    smiles: str, cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=cause.replace("(", r"\(")):
        molecules.prepare(smiles)
    assert molecules.prepared(smiles) is None
    assert capfd.readouterr() == ("", ""), "RDKit writes nothing of its own"


def test_salts_and_solvents_are_stripped() -> None:
    sodium = molecules.prepare("[Na+].CC(=O)[O-]")
    assert sodium.stripped
    assert molecules.canonical(sodium.molecule) == "CC(=O)[O-]"
    assert molecules.canonical(molecules.prepare("O.O.c1ccccc1.Cl").molecule) == "c1ccccc1"
    assert not molecules.prepare("CCO").stripped


def test_all_spellings_of_a_molecule_are_one() -> None:
    aspirin = molecules.prepare("CC(=O)Oc1ccccc1C(=O)O").molecule
    spellings = molecules.randomised(aspirin, 20, seed=3)
    again = [molecules.prepare(text).molecule for text in spellings]
    assert len(set(spellings)) > 5
    assert spellings == molecules.randomised(aspirin, 20, seed=3) != molecules.randomised(aspirin, 20, seed=4)
    assert {molecules.canonical(molecule) for molecule in again} == {molecules.canonical(aspirin)}
    prints = molecules.fingerprints([aspirin, *again])
    assert prints.shape == (21, 2048)
    assert (prints == prints[0]).all()


def test_fingerprints_are_counts_whose_bits_are_those_of_rdkit() -> None:
    molecule = molecules.prepare("CCCCCCCCCC").molecule
    counts = molecules.fingerprints([molecule])[0]
    assert counts.max() > 1
    assert ((counts > 0) == (molecules.generator().GetFingerprintAsNumPy(molecule) > 0)).all()


def test_the_scaffold_is_the_rings_and_what_joins_them() -> None:
    assert molecules.scaffold(molecules.prepare("CCc1ccc(CC2CCCCC2)cc1O").molecule) == "c1ccc(CC2CCCCC2)cc1"
    assert molecules.scaffold(molecules.prepare("CCCC").molecule) == ""


def test_similarity_is_that_of_rdkit() -> None:
    from rdkit import DataStructs

    texts = ["CCO", "CCCO", "c1ccccc1O", "c1ccccc1CCO", "CC(=O)Oc1ccccc1C(=O)O", "C1CCCCC1N"]
    found = [molecules.prepare(text).molecule for text in texts]
    prints = [molecules.generator().GetFingerprint(molecule) for molecule in found]
    bits = pack(molecules.fingerprints(found))
    expected = [DataStructs.BulkTanimotoSimilarity(item, prints[2:]) for item in prints[:2]]
    np.testing.assert_allclose(Neighbours.of(bits[2:]).nearest(bits[:2]), np.max(expected, axis=1))
    own = [sorted(DataStructs.BulkTanimotoSimilarity(item, prints))[-2] for item in prints]
    np.testing.assert_allclose(Neighbours.of(bits).nearest(bits, rank=1), own)


def test_the_domain_knows_its_molecules_and_what_is_far_from_them(tmp_path: Path) -> None:
    domain = domain_of(["CCO", "CCCO", "CCCCO", "CCCCCO", "C("])
    domain.save(tmp_path)
    again = Domain.open(tmp_path)
    assert again is not None
    assert again.limit == domain.limit > 0
    asked = [molecules.prepare(text).molecule for text in ("OCC", "CCCCCCO", "c1ccc2[nH]ccc2c1")]
    digests = molecules.keys([molecules.canonical(molecule) for molecule in asked])
    same, near, far = again.describe(molecules.fingerprints(asked), digests)
    assert same == {"similarity": 1.0, "in_domain": True, "in_training": True}
    assert (near["in_domain"], near["in_training"]) == (True, False)
    assert (far["in_domain"], far["in_training"]) == (False, False)
    assert Domain.open(tmp_path / "nowhere") is None


def test_a_domain_of_another_shape_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"bits": np.zeros((2, 8), np.uint8)}, tmp_path / "training_molecules.safetensors")
    with pytest.raises(BundleError, match="not as Budwood writes them"):
        Domain.open(tmp_path)
