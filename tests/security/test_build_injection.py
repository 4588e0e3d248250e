"""Nothing that is put into a Dockerfile, a compose file or a unit can become an instruction of its own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import served
from hypothesis import given
from hypothesis import strategies as st

from budwood.core.bundle import Bundle
from budwood.core.errors import BudwoodError, UsageError
from budwood.engine import deployment, installation
from budwood.engine.deployment import plain, write_docker, write_systemd

HOSTILE = (
    "a\nRUN touch /owned",
    "a\r\nUSER root",
    "a`touch /owned`",
    "a$(touch /owned)",
    "${HOME}",
    "$HOME",
    'a"; RUN x',
    "a' && x",
    "a\\\nRUN x",
    "a;x",
    "a|x",
    "a&x",
    "a b",
    "a\tb",
    "a\x00b",
    "a\u2028RUN x",
    "a #",
    "#escape=`",
    "%n",
    "{name}",
    "../a",
    "/a/../b",
    "-a",
    "--from=x",
    "",
    "A" * 300,
)
"""Beginnings of instructions, shells, variables, formats, paths and flags."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return served.null_bundle(tmp_path_factory.mktemp("model") / "b")


FIELDS: dict[str, Callable[[Bundle, Path, str], Path]] = {
    "docker, name": write_docker,
    "docker, image": lambda bundle, out, value: write_docker(bundle, out, "tickets", value),
    "systemd, name": write_systemd,
    "systemd, prefix": lambda bundle, out, value: write_systemd(bundle, out, "tickets", f"/srv/{value}"),
}


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_no_plain_word_is_refused(bundle: Bundle, tmp_path: Path, field: str, value: str) -> None:
    with pytest.raises(UsageError, match="cannot be the"):
        FIELDS[field](bundle, tmp_path / "out", value)
    assert list(tmp_path.iterdir()) == []


def licensed(bundle: Bundle, license: str) -> Bundle:
    """The bundle, as if its manifest said so; copying it does not look at the license."""
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"license": license}))


@pytest.mark.parametrize("value", [value for value in HOSTILE if value not in ("a b", "-a")])
def test_a_license_that_is_more_than_words_is_no_label(value: str, bundle: Bundle) -> None:
    assert deployment.license_label(licensed(bundle, value).manifest.license) == "NOASSERTION"


@pytest.mark.parametrize("value", HOSTILE)
def test_a_version_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with pytest.raises(BudwoodError, match="is no version"):
        installation.checked("numpy", value)


@given(st.text(max_size=40), st.sampled_from(sorted(deployment.PATTERNS)))
def test_whatever_passes_is_one_word_of_one_line(value: str, field: str) -> None:
    try:
        plain(field, value)
    except UsageError:
        return
    assert value.isascii()
    assert not set(value) & set("\n\r\t\x00`$\"'\\;|&<>#%{}*?!~")
    assert field == "license" or " " not in value
    assert not value.startswith("-")
    assert ".." not in value.split("/")


def test_names_that_are_plain_pass(bundle: Bundle, tmp_path: Path) -> None:
    digest = "python:3.11-slim@sha256:" + "a" * 64
    folder = write_docker(bundle, tmp_path / "a", "my-model.v2", f"registry.example.org:5000/team/{digest}")
    first = (folder / "Dockerfile").read_text().splitlines()[0]
    assert first == f"FROM registry.example.org:5000/team/{digest} AS build"
    write_systemd(bundle, tmp_path / "b", "my_model", "/srv/models")


def test_labels_of_data_do_not_get_into_the_files(tmp_path: Path) -> None:
    labels = ["a\nRUN touch /owned", "$(touch /owned)", "`x`"]
    hostile = served.null_bundle(tmp_path / "model", labels=labels)
    for write in (write_docker, write_systemd):
        folder = write(hostile, tmp_path / write.__name__, "tickets")
        texts: list[Any] = [path.read_text() for path in folder.iterdir() if path.is_file() and path.suffix != ".whl"]
        assert "owned" not in json.dumps(texts)
