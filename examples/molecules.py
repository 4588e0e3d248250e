"""Molecules in Python: learn the boiling points of some solvents, then rank molecules that the model has never seen.

Run it from anywhere with `.venv/bin/python examples/molecules.py`; it takes some ten seconds on two CPU cores.
The table, the library and the models go to `molecules_example/` in the working directory.
"""

import csv
from pathlib import Path

import budwood

BOILING_POINTS = """
C -161.5, CC -88.6, CCC -42.1, CCCC -0.5, CCCCC 36.1, CCCCCC 68.7, CCCCCCC 98.4, CCCCCCCC 125.6, CCCCCCCCC 150.8,
CC(C)C -11.7, CCC(C)C 27.8, CC(C)(C)C 9.5, C1CCCC1 49.2, C1CCCCC1 80.7, c1ccccc1 80.1, Cc1ccccc1 110.6,
CCc1ccccc1 136.2, Cc1ccccc1C 144.4, C=Cc1ccccc1 145.0, CO 64.7, CCO 78.4, CCCO 97.2, CC(C)O 82.3, CCCCO 117.7,
CCCCCO 138.0, CCCCCCO 157.0, OC1CCCCC1 161.8, Oc1ccccc1 181.7, OCc1ccccc1 205.3, OCCO 197.3, CC(C)=O 56.1,
CCC(C)=O 79.6, O=C1CCCCC1 155.6, CC=O 20.2, O=Cc1ccccc1 178.1, OC=O 100.8, CC(=O)O 118.1, CCC(=O)O 141.2,
CCCC(=O)O 163.7, CCOC(C)=O 77.1, COC(C)=O 56.9, CCOCC 34.6, C1CCOC1 66.0, C1COCCO1 101.1, COc1ccccc1 153.7,
CN -6.3, CCN 16.6, CCN(CC)CC 89.3, Nc1ccccc1 184.1, c1ccncc1 115.2, C1CCNCC1 106.0, CC#N 81.6, ClCCl 39.6,
ClC(Cl)Cl 61.2, ClC(Cl)(Cl)Cl 76.7, Clc1ccccc1 131.7, Brc1ccccc1 156.0, C[N+](=O)[O-] 101.2, CS(C)=O 189.0,
CN(C)C=O 153.0, c1ccsc1 84.1, c1ccoc1 31.4
"""
"""SMILES and degrees Celsius at normal pressure, as any handbook has them."""
LIBRARY = """
CCCCCCCO heptanol
CCCCCC hexane, which the model has learnt
CC(C)c1ccccc1 cumene
COC(C)(C)C methyl tert-butyl ether
OCCCO propane-1,3-diol
Cc1ccncc1 4-picoline
CCCCl 1-chloropropane
"""


def main() -> None:
    folder = Path("molecules_example")
    folder.mkdir(exist_ok=True)
    with (folder / "solvents.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("smiles", "boiling_point"), *(item.split() for item in BOILING_POINTS.split(","))])
    (folder / "library.smi").write_text(LIBRARY, encoding="utf-8")

    # Half of these molecules have no ring, so there are too few scaffolds to hold some out: the split is random.
    # Without `method`, a SMILES transformer is tried as well, which takes minutes.
    store = folder / "models"
    model = budwood.adapt(folder / "solvents.csv", split="random", method="fingerprint", store=store)
    low, high = model.intervals["rmse"]
    score = f"RMSE {model.metrics['rmse']:.0f} K, 95 % {low:.0f}-{high:.0f}"
    print(f"{model.name}:{model.version}, {model.split} split: {score}")

    for row in budwood.predict(model.name, file=folder / "library.smi", top=5, store=store):
        known = "in training" if row["in_training"] else f"similarity {row['similarity']:.2f}"
        print(f"{row['rank']}. {row['value']:6.1f} ± {row['uncertainty']:.0f} °C  {row['name']} ({known})")


if __name__ == "__main__":
    main()
