"""Each type of file is judged by its bytes: disguises, code keys, references to other files, damage."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.opening import ALLOWED_SUFFIXES, check_content


class Canary:
    """Unpickling it would leave a file behind."""

    def __reduce__(self) -> tuple:
        return (Path("canary").touch, ())


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Canary()))
    return buffer.getvalue()


DISGUISES = {f"pickle-{protocol}": pickle.dumps(Canary(), protocol) for protocol in range(6)} | {
    "zip": zipped(),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "gzip": b"\x1f\x8b\x08" + bytes(64),
    "7z": b"7z\xbc\xaf'\x1c" + bytes(64),
    "elf": b"\x7fELF\x02\x01\x01" + bytes(64),
    "exe": b"MZ\x90" + bytes(64),
    "pyc": b"\xa7\r\r\n" + bytes(64),
    "numpy": b"\x93NUMPY\x01\x00" + bytes(64),
    "script": b"#!/bin/sh\ntouch canary\n",
    "xz": b"\xfd7zXZ\x00" + bytes(64),
    "zstd": b"(\xb5/\xfd" + bytes(64),
    "tar": bytes(257) + b"ustar\x0000" + bytes(255),
}


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "a.safetensors", "a.onnx", "a.md", "a.txt", "a.svg", "a.png"]
)
@pytest.mark.parametrize("kind", DISGUISES)
def test_something_else_in_disguise(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(DISGUISES[kind])
    with pytest.raises(BundleError) as caught:
        check_content(tmp_path / name, name)
    assert caught.value.where == str(tmp_path / name)
    assert not Path("canary").exists()


@pytest.mark.parametrize(
    "suffix", ["pkl", "pt", "pth", "bin", "ckpt", "joblib", "h5", "keras", "dill", "npy", "PT", "pt2"]
)
def test_a_pickle_under_its_own_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(pickle.dumps(Canary()))
    with pytest.raises(BundleError, match="run code"):
        check_content(path, path.name)


@pytest.mark.parametrize("suffix", ALLOWED_SUFFIXES)
def test_a_disguise_can_neither_be_created_nor_kept(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(BundleError):
        Bundle.create(
            tmp_path / "b", tiny.draft(), lambda folder: (folder / f"x{suffix}").write_bytes(pickle.dumps(Canary()))
        )
    assert not (tmp_path / "b").exists()


# JSON


def check_text(folder: Path, name: str, text: str | bytes) -> None:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    check_content(folder / name, name)


@pytest.mark.parametrize(
    "content",
    [
        {"auto_map": {"AutoModel": "modeling.Evil"}},
        {"text_config": {"auto_map": {}}},
        {"custom_pipeline": "x"},
        {"custom_pipelines": {"x": {"impl": "a.B"}}},
        {"trust_remote_code": True},
        {"a": [{"b": {"trust_remote_code": False}}]},
        {"model_args": {"trust_remote_code": 1}},
        {"auto_mapping": {"parent_library": "os"}},
        {"_attn_implementation": "someone/kernel"},
        {"vision": {"attn_implementation": "someone/kernel:f"}},
    ],
)
def test_json_keys_that_make_a_loader_run_code(tmp_path: Path, content: object) -> None:
    with pytest.raises(BundleError, match=r"asks (its loader )?to"):
        check_text(tmp_path, "config.json", json.dumps(content))


def test_words_of_a_vocabulary_may_be_anything(tmp_path: Path) -> None:
    text = json.dumps({"model": {"vocab": {"auto_map": 17, "trust_remote_code": 18}}})
    check_text(tmp_path, "tokenizer.json", text)
    with pytest.raises(BundleError):
        check_text(tmp_path, "config.json", text)
    with pytest.raises(BundleError):
        check_text(tmp_path, "tokenizer.json", json.dumps({"trust_remote_code": True}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1, "a": 2}',
        '{"a": ' + "9" * 5000 + "}",
        "[" * 100 + "]" * 100,
        '{"a":' * 200_000,
        b'{"a": "\xff"}',
        '{"a": 1}\0',
        "\ufeff{}".encode("utf-16"),
    ],
    ids=range(12),
)
def test_json_that_is_off(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(BundleError):
        check_text(tmp_path, "config.json", text)


def test_json_that_is_fine(tmp_path: Path) -> None:
    check_text(
        tmp_path,
        "config.json",
        '{"a": 1e3, "b": [1, {"c": null}], "auto_map": null, "model_max_length": 1' + "0" * 30 + "}",
    )


def test_large_json_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(BundleError, match="larger than 64 MiB"):
        check_content(tmp_path / "a.json", "a.json")


def test_an_adapter_makes_loaders_fetch_its_base(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="fetch another model"):
        check_text(tmp_path, "adapter_config.json", '{"base_model_name_or_path": "x"}')


@pytest.mark.parametrize(
    ("module", "ok"),
    [
        ({"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}, True),
        ({"type": "sentence_transformers.models.Transformer", "path": ""}, True),
        ({"type": "modeling.Evil", "path": ""}, False),
        ({"type": "sentence_transformers.models.Pooling.x", "path": ""}, False),
        ({"type": "sentence_transformers.models.Pooling", "path": "../x"}, False),
        ({"type": ["a"], "path": ""}, False),
        ({}, False),
        ("x", False),
    ],
)
def test_modules_of_sentence_transformers(tmp_path: Path, module: object, ok: bool) -> None:
    if ok:
        check_text(tmp_path, "modules.json", json.dumps([module]))
    else:
        with pytest.raises(BundleError):
            check_text(tmp_path, "modules.json", json.dumps([module]))


# safetensors


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin: int, end: int, shape: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        safetensors({}, length=1 << 62),
        safetensors({}, length=(1 << 64) - 1),
        safetensors({}, length=3),
        safetensors([]),
        safetensors(b"{" * 100_000),
        safetensors({"a": tensor(0, 4, [1])}),
        safetensors({"a": tensor(0, 4, [1])}, b"12345"),
        safetensors({"a": tensor(0, 4, [1])}, b"123"),
        safetensors({"a": tensor(0, 4, [2])}, b"1234"),
        safetensors({"a": tensor(1, 5, [1])}, b"12345"),
        safetensors({"a": tensor(0, 4, [1]), "b": tensor(2, 6, [1])}, b"123456"),
        safetensors({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, b"1" * 12),
        safetensors({"a": tensor(0, 4, [1], "PICKLE")}, b"1234"),
        safetensors({"a": tensor(0, 4, [-1, -1])}, b"1234"),
        safetensors({"a": tensor(0, 4, [True])}, b"1234"),
        safetensors({"a": tensor(0, 4, "1")}, b"1234"),
        safetensors({"a": tensor(0, 4, [1.0])}, b"1234"),
        safetensors({"a": {"dtype": "F32"}}, b"1234"),
        safetensors({"a": 1}),
        safetensors({"__metadata__": {"a": 1}}),
        safetensors({"__metadata__": []}),
        safetensors(b'{"a": ' + json.dumps(tensor(0, 4, [1])).encode() + b', "a": 1}', b"1234"),
        safetensors({"a": tensor(0, 0, [1 << 62, 1 << 62, 0])}, b"1"),
    ],
    ids=range(25),
)
def test_safetensors_that_are_off(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError):
        check_text(tmp_path, "model.safetensors", content)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"])
def test_safetensors_that_are_fine(tmp_path: Path, dtype: str) -> None:
    tensors = {"a": np.zeros((3, 5), dtype), "empty": np.zeros((0, 5), dtype), "scalar": np.zeros((), dtype)}
    check_text(tmp_path, "model.safetensors", save(tensors, {"format": "pt"}))


def test_a_header_length_that_looks_like_a_pickle_is_no_pickle(tmp_path: Path) -> None:
    header = json.dumps({"a": tensor(0, 4, [1])})
    check_text(tmp_path, "model.safetensors", safetensors(header.ljust(0x280).encode(), b"1234"))


# SVG, PNG, text

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{}</svg>'


@pytest.mark.parametrize(
    "inside",
    [
        "<g><path d='M0 0'/><text x='1'>a &amp; b</text></g>",
        "<style>text {fill: red} @media (prefers-color-scheme: dark) {text {fill: white}}</style>",
        "<defs><clipPath id='a'/></defs><rect clip-path='url(#a)'/><use xlink:href='#a'/>",
    ],
)
def test_drawings_that_are_fine(tmp_path: Path, inside: str) -> None:
    check_text(tmp_path, "plot.svg", '<?xml version="1.0" encoding="utf-8"?>\n' + SVG.format(inside))


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        "<SCRIPT/>",
        "<foreignObject/>",
        "<image href='x.png'/>",
        "<a href='#x'/>",
        "<rect onclick='x()'/>",
        "<rect ONLOAD='x()'/>",
        "<use href='http://evil/x.svg#a'/>",
        "<use xlink:href='data:image/svg+xml,x'/>",
        "<rect fill='url(http://evil/x)'/>",
        "<rect style='fill: url( \"//evil/x\")'/>",
        "<style>@import 'http://evil/x.css';</style>",
        "<style>a {background: u\\72l(http://evil)}</style>",
        "<style>a {background: ur/**/l(http://evil)}</style>",
        "<animate attributeName='href' to='javascript:x'/>",
        "<set/>",
        "<svg/>",
        "<html:script xmlns:html='http://www.w3.org/1999/xhtml'/>",
        "<?xml-stylesheet href='x'?>",
        "&x;",
        "<g>",
    ],
)
def test_drawings_that_act(tmp_path: Path, inside: str) -> None:
    with pytest.raises(BundleError):
        check_text(tmp_path, "plot.svg", SVG.format(inside))


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg>&b;</svg>',
        '<!DOCTYPE svg SYSTEM "file:///etc/passwd"><svg/>',
        '<?xml version="1.0" encoding="utf-7"?><svg/>',
        "<html/>",
        "<rdf:svg xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'/>",
        "",
        "hello",
    ],
)
def test_documents_that_are_no_drawing(tmp_path: Path, text: str) -> None:
    with pytest.raises(BundleError):
        check_text(tmp_path, "plot.svg", text)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


def test_an_image(tmp_path: Path) -> None:
    check_text(tmp_path, "plot.png", PNG)
    for content in (PNG + zipped(), PNG[:-1], PNG[:20], b"\x89PNG\r\n\x1a\n", PNG[:-12], b"GIF89a"):
        with pytest.raises(BundleError):
            check_text(tmp_path, "plot.png", content)


@pytest.mark.parametrize("content", [b"caf\xe9", b"a\0b", "ü".encode("utf-16")])
def test_text_that_is_no_text(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError):
        check_text(tmp_path, "README.md", content)


def outcome(folder: Path, name: str, content: bytes) -> BundleError | None:
    try:
        check_text(folder, name, content)
    except BundleError as error:
        return error
    return None


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200))
def test_no_ordinary_text_is_taken_for_a_pickle(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    check_text(tmp_path_factory.getbasetemp(), "notes.md", "# A model\n" + text + ".")


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_accepted_but_never_crash(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for suffix in ALLOWED_SUFFIXES:
        error = outcome(folder, f"random{suffix}", content)
        assert error is None or error.where == str(folder / f"random{suffix}")
