"""Every snippet of docs/clients.md runs against a server: Python, curl and JavaScript."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import exported
import tiny_language

from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")
ADDRESS = "localhost:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Handle]:
    folder = tmp_path_factory.mktemp("served")
    tickets = exported.text(folder / "tickets", tiny_bert)
    stories = tiny_language.bundle(folder / "stories")
    entries = [Served("tickets", "1", tickets), Served("stories", "1", stories)]
    with start(entries, limits=Limits(notice_seconds=0)) as handle:
        yield handle


def here(code: str, server: Handle) -> str:
    """The snippet with the address of this server."""
    assert ADDRESS in code
    return code.replace(ADDRESS, server.url.removeprefix("http://"))


@pytest.mark.parametrize("code", blocks("python"))
def test_python(server: Handle, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(here(code, server), "clients.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_triton(server: Handle, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tritonclient", reason="it is no part of the development tools: 45 MB")
    (code,) = blocks("py")
    exec(compile(here(code, server), "clients.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server: Handle) -> None:
    (code,) = blocks("sh")
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", here(code, server)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    first, _, rest = run.stdout.partition("data: ")
    assert json.loads(first)["label"]
    assert rest.endswith("data: [DONE]\n\n")


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.parametrize("code", blocks("javascript"))
def test_javascript(server: Handle, code: str, tmp_path: Path) -> None:
    script = tmp_path / "snippet.mjs"
    script.write_text(here(code, server), encoding="utf-8")
    run = subprocess.run(["node", str(script)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_there_are_snippets_in_every_language() -> None:
    assert [len(blocks(language)) for language in ("python", "py", "sh", "javascript")] == [3, 1, 1, 2]
