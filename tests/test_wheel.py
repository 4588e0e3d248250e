"""The wheel holds the package and its licence, and nothing else."""

import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".typed", ".html", ".css", ".js", ".svg", ".txt", ".csv", ".json", ".toml"}
DEMO_DATA = {"budwood/examples/tickets.csv"}
METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    builders = pytest.importorskip("hatchling.builders.wheel")
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = builders.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return zipfile.ZipFile(path)


def test_the_wheel_has_every_file_of_the_package_and_only_these(wheel):
    info = next(name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    inside = set(wheel.namelist())
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "budwood").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == package | DEMO_DATA | {f"{info}/{name}" for name in METADATA}


def test_files_of_the_package_are_code_pages_or_text(wheel):
    strange = [name for name in wheel.namelist() if ".dist-info/" not in name and Path(name).suffix not in SUFFIXES]
    assert strange == []


def test_the_wheel_is_small(wheel):
    assert sum(item.compress_size for item in wheel.infolist()) < 1_000_000


def test_the_metadata_state_licence_python_and_command(wheel):
    info = next(name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "budwood = budwood.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_the_core_install_brings_no_training_library(wheel):
    info = next(name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    lines = wheel.read(f"{info}/METADATA").decode().splitlines()
    core = [line.split()[1] for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    for library in ("torch", "transformers", "scikit-learn", "scipy", "onnx>", "peft", "matplotlib"):
        assert not [name for name in core if name.startswith(library)]
