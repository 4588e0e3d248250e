"""Folders from which a server is installed: what is in them, and that what they say runs. No image is built here."""

import csv
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import served
import yaml

from budwood.core.bundle import Bundle
from budwood.core.errors import UsageError
from budwood.engine.deployment import BASE_IMAGE, PROBE, write_docker, write_systemd
from budwood.engine.installation import needed, requirements, write_wheel

ROOT = Path(__file__).resolve().parents[2]
Instruction = tuple[str, dict[str, str], Any]


def instructions(dockerfile: str) -> Iterator[Instruction]:
    """Word, flags and arguments of each line; JSON where the line has some."""
    for line in dockerfile.splitlines():
        word, _, rest = line.partition(" ")
        flags: dict[str, str] = {}
        while matched := re.match(r"--([a-z-]+)=(\S+) ", rest):
            flags[matched[1]] = matched[2]
            rest = rest[matched.end() :]
        yield word, flags, json.loads(rest) if rest.startswith("[") else rest


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return served.null_bundle(tmp_path_factory.mktemp("model") / "b")


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    return write_docker(bundle, tmp_path_factory.mktemp("docker") / "out", "tickets")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory, docker: Path) -> Path:
    """The wheel of the folder, installed as pip would, beside what is installed here."""
    target = tmp_path_factory.mktemp("site")
    (wheel,) = docker.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_the_folder_has_what_its_dockerfile_copies(docker: Path) -> None:
    (wheel,) = docker.glob("*.whl")
    allowed = {"models", "requirements.txt", wheel.name}
    assert {path.name for path in docker.iterdir()} == {
        "Dockerfile", ".dockerignore", "compose.yaml", "README.md", *allowed
    }  # fmt: skip
    ignored = (docker / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {line.removeprefix("!") for line in ignored[1:]} == allowed
    copied = [what for word, flags, what in instructions((docker / "Dockerfile").read_text()) if word == "COPY"]
    assert copied == [
        ["requirements.txt", wheel.name, "/build/"],
        ["/srv/venv", "/srv/venv"],
        ["models", "/srv/models"],
    ]
    assert Bundle.open(docker / "models" / "tickets").manifest.id


def test_the_image_runs_as_nobody_and_without_a_shell(docker: Path) -> None:
    found = list(instructions((docker / "Dockerfile").read_text()))
    words = [word for word, _, _ in found]
    for word, _, what in found:
        if word in ("RUN", "CMD", "ENTRYPOINT", "COPY"):
            assert isinstance(what, list), (word, what)
    assert words.count("FROM") == 2
    last = words[len(words) - words[::-1].index("FROM") :]
    assert "RUN" not in last  # what is served from installs nothing
    assert ("USER", {}, "10001:10001") in found
    assert last.index("USER") < last.index("ENTRYPOINT")
    assert {what.split()[0] for word, _, what in found if word == "FROM"} == {BASE_IMAGE}
    (health,) = [(flags, what) for word, flags, what in found if word == "HEALTHCHECK"]
    assert set(health[0]) == {"interval", "timeout", "start-period", "retries"}
    assert json.loads(health[1].removeprefix("CMD ")) == ["/srv/venv/bin/python", "-c", PROBE]
    # Others can reach it, so it starts with keys only.
    entry = next(what for word, _, what in found if word == "ENTRYPOINT")
    assert entry[entry.index("--host") + 1] == "0.0.0.0"
    assert ("CMD", {}, ["--keys", "/run/budwood/keys"]) in found


def test_the_service_gets_no_rights(docker: Path) -> None:
    service = yaml.safe_load((docker / "compose.yaml").read_text())["services"]["tickets"]
    assert service["mem_limit"] == "2048m"
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]


def test_all_that_is_needed_is_pinned(docker: Path) -> None:
    lines = (docker / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.!_-]+", line) for line in lines)
    pinned = {line.partition("==")[0] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = {name for name, _ in needed(project["dependencies"], frozenset())}
    assert stated - pinned == set(), "the installed package is older than pyproject.toml: pip install -e ."
    assert pinned & {"torch", "transformers", "scikit-learn", "pytest", "budwood"} == set()
    assert "rdkit" in {line.partition("==")[0] for line in requirements(["chem"])}


def test_requirements_of_extras_and_other_platforms() -> None:
    lines = ['a[fast]>=1; extra == "x"', "B_c (>=2)", "d; python_version < '3'", 'e; extra == "y"', "???"]
    found = set(needed(lines, frozenset({"x"})))
    assert found == {("a", frozenset({"fast"})), ("b-c", frozenset()), ("d", frozenset())}


def test_the_wheel_is_whole_and_the_same_every_time(docker: Path, unpacked: Path, tmp_path: Path) -> None:
    (wheel,) = docker.glob("*.whl")
    assert write_wheel(tmp_path).read_bytes() == wheel.read_bytes()
    (record,) = unpacked.glob("*.dist-info/RECORD")
    listed = [row[0] for row in csv.reader(record.read_text().splitlines())]
    there = sorted(str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file())
    assert sorted(listed) == there
    assert not [name for name in there if "__pycache__" in name]
    assert "budwood/web/static/page.css" in there


def test_what_the_image_runs_answers(docker: Path, unpacked: Path, tmp_path: Path) -> None:
    """The commands of the Dockerfile with other paths: the wheel serves the folder's model, and the probe finds it."""
    found = list(instructions((docker / "Dockerfile").read_text()))
    entry = next(what for word, _, what in found if word == "ENTRYPOINT")
    replaced = {
        "/srv/models/tickets": str(docker / "models" / "tickets"),
        "0.0.0.0": "127.0.0.1",
        "onnxruntime": "null",
        "8000": "0",
    }
    arguments = [replaced.get(word, word) for word in entry[1:]]
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"}
    make = [sys.executable, "-m", "budwood", "keys", "make", str(tmp_path / "keys"), "me"]
    key = subprocess.run(make, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    command = [sys.executable, "-m", "budwood", *arguments, "--keys", str(tmp_path / "keys"), "--json"]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            connection.request("POST", "/predict", b'{"text": "hello"}', headers)
            reply = connection.getresponse()
            assert (reply.status, reply.headers["x-model"]) == (200, "tickets")
            reply.read()
            probe = [sys.executable, "-c", PROBE.replace("8000", str(port))]
            assert subprocess.run(probe, check=False).returncode == 0
            connection.close()
        finally:
            process.terminate()
        assert process.wait(30) in (0, 143, -15)
        assert subprocess.run(probe, check=False, stderr=subprocess.DEVNULL).returncode != 0


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    return write_systemd(bundle, tmp_path_factory.mktemp("systemd") / "out", "tickets")


def test_the_unit_is_hardened(systemd: Path) -> None:
    lines = (systemd / "budwood-tickets.service").read_text().splitlines()
    for line in (
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "Restart=on-failure",
        "MemoryMax=2048M",
        "KillMode=mixed",
    ):
        assert line in lines


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_accepts_the_unit(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_systemd(bundle, tmp_path / "out", "tickets")
    unit = folder / "budwood-tickets.service"
    # It looks for the program, which is not installed here.
    unit.write_text(unit.read_text().replace("ExecStart=/srv/budwood/venv/bin/budwood", f"ExecStart={sys.executable}"))
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-200:]


def test_an_image_is_for_docker_only(bundle: Bundle, tmp_path: Path) -> None:
    from budwood.core.store import Store
    from budwood.flow import export

    home = Store(tmp_path / "store")
    home.publish("tickets", bundle)
    with pytest.raises(UsageError, match="built on no image"):
        export("tickets", tmp_path / "out", format="edge", image="debian", store=home.root)
