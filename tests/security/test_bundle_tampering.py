"""A bundle that was changed on disk in any way is refused, and the error names the file."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from budwood.core.bundle import SCHEMA_VERSION, Bundle, digest
from budwood.core.errors import BundleError

FILES = ("README.md", "bundle.json", "config.json", "model.safetensors", "onnx/model.onnx", "tokenizer.json")
FILES += ("tokenizer_config.json",)


@pytest.fixture
def folder(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


def refused(folder: Path, name: str, match: str | None = None) -> BundleError:
    with pytest.raises(BundleError, match=match) as caught:
        Bundle.open(folder)
    assert caught.value.where == str(folder / name)
    assert caught.value.fix
    return caught.value


def test_the_list_of_files_is_complete(tiny_bundle: Bundle) -> None:
    assert {*FILES} == {*tiny_bundle.names, "bundle.json"}
    assert Bundle.open(tiny_bundle.path).id == tiny_bundle.id


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    positions = {0, 1, 7, 8, 9, len(content) // 3, len(content) // 2, len(content) - 2, len(content) - 1}
    for position in sorted(positions):
        for bit in (0, 5, 7):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            (folder / name).write_bytes(changed)
            refused(folder, name)
    (folder / name).write_bytes(content)
    Bundle.open(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, 8, 0.5, -1])
def test_a_truncated_file(folder: Path, name: str, keep: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(keep * len(content)) if keep == 0.5 else int(keep)])
    refused(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_appended_bytes(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    refused(folder, name)


@pytest.mark.parametrize("name", [name for name in FILES if name != "bundle.json"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, name, "is missing")


def test_a_missing_manifest(folder: Path) -> None:
    (folder / "bundle.json").unlink()
    with pytest.raises(BundleError, match="it has no bundle"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["notes.txt", "extra.json", "onnx/other.onnx", "vocab.txt"])
@pytest.mark.parametrize("verify", [True, False])
def test_an_extra_file_of_an_allowed_type(folder: Path, name: str, verify: bool) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(BundleError, match="not listed") as caught:
        Bundle.open(folder, verify=verify)
    assert caught.value.where == str(folder / name)


@pytest.mark.parametrize("name", ["modeling.py", "onnx/a.py", "x.PY", "a.pyc", "lib.so", "run.sh"])
def test_extra_code(folder: Path, name: str) -> None:
    (folder / name).write_text("raise SystemExit")
    refused(folder, name, "never runs code")


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "pt2", "ckpt", "pkl", "joblib", "h5", "keras", "npz", "nemo"])
def test_weights_that_run_code(folder: Path, suffix: str) -> None:
    (folder / f"model.{suffix}").write_bytes(b"x")
    assert "safetensors" in refused(folder, f"model.{suffix}").fix


@pytest.mark.parametrize("name", [".hidden", ".gitattributes", "onnx/.x.json", "a.tar.gz", "model.xyz", "noending"])
def test_other_names_that_are_not_allowed(folder: Path, name: str) -> None:
    (folder / name).write_text("x")
    refused(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_a_symbolic_link(folder: Path, name: str, tmp_path: Path) -> None:
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    refused(folder, name, "symbolic link")


def test_a_symbolic_link_to_a_folder(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "onnx", tmp_path / "onnx")
    (folder / "onnx").symlink_to(tmp_path / "onnx", target_is_directory=True)
    refused(folder, "onnx", "symbolic link")


def test_a_dangling_link(folder: Path) -> None:
    (folder / "notes.txt").symlink_to("../nowhere")
    refused(folder, "notes.txt", "symbolic link")


@pytest.mark.parametrize("name", FILES)
def test_a_hard_link(folder: Path, name: str, tmp_path: Path) -> None:
    os.link(folder / name, tmp_path / "elsewhere")
    refused(folder, name, "hard link")


@pytest.mark.parametrize("name", ["pipe.json", "onnx/model.onnx"])
def test_a_pipe(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    refused(folder, name, "pipe")


def test_a_socket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.chdir(folder)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.json")
        refused(folder, "s.json", "socket")


@pytest.mark.parametrize("name", ["Config.json", "MODEL.safetensors", "readme.md"])
def test_names_that_differ_only_by_case(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(BundleError, match="only by case"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "name", ["a\nb.json", "a\\b.json", "..json", "a b.json", "ünicode.json", "x\x1b[2J.md", "-rf.md"]
)
def test_names_that_could_mislead(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(BundleError, match="safe name") as caught:
        Bundle.open(folder)
    assert str(caught.value).isascii()
    assert "\x1b" not in str(caught.value)


def test_a_name_that_is_not_text(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.json")).write_text("{}")
    with pytest.raises(BundleError, match="safe name") as caught:
        Bundle.open(folder)
    str(caught.value).encode()


def test_too_many_files(folder: Path) -> None:
    for number in range(300):
        (folder / f"{number}.json").write_text("{}")
    with pytest.raises(BundleError, match="more than"):
        Bundle.open(folder)


def test_too_deep_folders(folder: Path) -> None:
    (folder / "a/b/c/d/e").mkdir(parents=True)
    with pytest.raises(BundleError, match="deep"):
        Bundle.open(folder)


def test_a_safetensors_header_of_absurd_length(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + content[8:])
    refused(folder, "model.safetensors")


# The manifest itself

Change = Callable[[dict], object]


def rewrite(folder: Path, change: Change, *, seal: bool = True) -> None:
    """Change the manifest as somebody would who knows how its id is made."""
    fields = json.loads((folder / "bundle.json").read_text())
    change(fields)
    if seal:
        fields.pop("id", None)
        fields["id"] = digest(fields)
    text = json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False)
    (folder / "bundle.json").write_text(text + "\n")


def test_resealing_without_a_change_is_accepted(folder: Path) -> None:
    rewrite(folder, lambda fields: None)
    Bundle.open(folder)


def test_a_change_that_is_not_sealed(folder: Path) -> None:
    rewrite(folder, lambda fields: fields.update(license="mit"), seal=False)
    refused(folder, "bundle.json", "does not match its id")


def test_a_newer_schema(folder: Path) -> None:
    rewrite(folder, lambda fields: fields.update(schema_version=SCHEMA_VERSION + 1, new={"a": 1}))
    error = refused(folder, "bundle.json", f"schema version {SCHEMA_VERSION + 1}")
    assert error.fix == "pip install --upgrade budwood"


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(schema_version=True),
        lambda fields: fields.update(schema_version=1.0),
        lambda fields: fields.update(schema_version="1"),
        lambda fields: fields.update(schema_version=0),
        lambda fields: fields.update(schema_version=None),
        lambda fields: fields.pop("schema_version"),
        lambda fields: fields.update(unknown=1),
        lambda fields: fields.update(files={}),
        lambda fields: fields.update(files=[]),
        lambda fields: fields["files"]["config.json"].update(bytes=-1),
        lambda fields: fields["files"]["config.json"].update(sha256="0" * 63),
        lambda fields: fields["files"]["config.json"].update(sha256="A" * 64),
        lambda fields: fields["files"].update({"../x": fields["files"]["config.json"]}),
        lambda fields: fields["files"].update({"/etc/passwd": fields["files"]["config.json"]}),
        lambda fields: fields["files"].update({"onnx/../config.json": fields["files"]["config.json"]}),
        lambda fields: fields["files"].update({"a\\b.json": fields["files"]["config.json"]}),
        lambda fields: fields["files"].update({"": fields["files"]["config.json"]}),
        lambda fields: fields["files"].update({"a\0.json": fields["files"]["config.json"]}),
        lambda fields: fields["files"].update({"bundle.json": fields["files"]["config.json"]}),
    ],
)
def test_a_sealed_manifest_that_is_off(folder: Path, change: Change) -> None:
    rewrite(folder, change)
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    assert caught.value.where.startswith(str(folder))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b"{}",
        b"\xff",
        b'{"schema_version": 1}',
        b'{"schema_version": 1, "metrics": NaN}',
        b'{"schema_version": 1e999}',
        b'{"schema_version": ' + b"9" * 5000 + b"}",
        b'{"schema_version": "\\ud800"}',
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 5000,
        b'{"schema_version": 1, "report": ' + b"[" * 40 + b"]" * 40 + b"}",
        b" " * (17 << 20),
    ],
    ids=lambda content: content[:24].decode(errors="replace"),
)
def test_a_manifest_of_nonsense(folder: Path, content: bytes) -> None:
    (folder / "bundle.json").write_bytes(content)
    refused(folder, "bundle.json")


def test_numbers_that_are_not_finite_in_a_sealed_manifest(folder: Path) -> None:
    text = (folder / "bundle.json").read_text()
    assert '"calibration": {}' in text
    for word in ("NaN", "Infinity", "-Infinity", "1e999"):
        (folder / "bundle.json").write_text(
            text.replace('"calibration": {}', f'"calibration": {{"temperature": {word}}}')
        )
        refused(folder, "bundle.json")


def test_a_duplicate_key_in_the_manifest(folder: Path) -> None:
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace("{\n", '{\n "license": "mit",\n', 1))
    refused(folder, "bundle.json", "does not match its id")


# Creating


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_create_refuses_a_number_that_is_no_measurement(tmp_path: Path, number: float) -> None:
    with pytest.raises(BundleError, match="no measurement") as caught:
        tiny.small_bundle(tmp_path / "store" / "b", report={"candidates": [{"p50_ms": number}]})
    assert caught.value.where == "bundle.json.report.candidates.0.p50_ms"
    assert not [*(tmp_path / "store").iterdir()]


def test_create_refuses_text_that_is_not_unicode(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not Unicode"):
        tiny.small_bundle(tmp_path / "store" / "b", base="\ud800")
    assert not [*(tmp_path / "store").iterdir()]


@pytest.mark.parametrize("name", ["bundle.json", "model.bin", "code.py", "a b.json", ".x"])
def test_create_refuses_what_open_would(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError):
        Bundle.create(tmp_path / "store" / "b", tiny.draft(), lambda folder: (folder / name).write_text("{}"))
    assert not [*(tmp_path / "store").iterdir()]


def test_read_gives_the_bytes_that_were_hashed(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.read("config.json") == (folder / "config.json").read_bytes()
    (folder / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="changed since"):
        bundle.read("config.json")
    with pytest.raises(BundleError, match="has no other"):
        bundle.read("other")


def test_copy_refuses_a_file_that_changed_after_opening(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(folder)
    (folder / "onnx" / "model.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(BundleError, match="changed since"):
        bundle.copy(tmp_path / "copies" / "copy")
    assert not [*(tmp_path / "copies").iterdir()]
