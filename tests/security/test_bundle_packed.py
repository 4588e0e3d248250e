"""A packed graph that was changed, cut off, or made to fill the memory is refused, and so is what it may hide."""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from onnx import ModelProto, StringStringEntryProto, TensorProto

from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.opening import check_content
from budwood.core.packed import MAGIC, PackedError, expand, expand_graph
from budwood.engine.packed import EXACT, Found, find_tensors, pack

NAME = "onnx/model.onnx.packed"


def packed(graph: bytes | None = None) -> bytes:
    graph = tiny.graph(tiny.weights(200, 3)) if graph is None else graph
    return pack(graph, find_tensors(graph), EXACT).content


def bundle(path: Path, content: bytes) -> Bundle:
    def write(folder: Path) -> None:
        tiny.write_files(folder)
        (folder / "onnx" / "model.onnx").unlink()
        (folder / "model.safetensors").unlink()
        (folder / NAME).write_bytes(content)

    return Bundle.create(path, tiny.draft(), write)


def header(content: bytes) -> tuple[dict[str, Any], bytes]:
    start = len(MAGIC) + 4
    length = int.from_bytes(content[len(MAGIC) : start], "little")
    return json.loads(content[start : start + length]), content[start + length :]


def file(fields: Any, streams: bytes) -> bytes:
    head = json.dumps(fields).encode()
    return MAGIC + len(head).to_bytes(4, "little") + head + streams


def changed(content: bytes, **fields: Any) -> bytes:
    found, streams = header(content)
    return file(found | fields, streams)


def test_a_packed_graph_is_a_format_like_a_plain_one(tmp_path: Path) -> None:
    graph = tiny.graph(tiny.weights(200, 3))
    made = bundle(tmp_path / "bundle", packed(graph))
    assert made.formats == {"onnx"}
    assert Bundle.open(made.path).read_model("onnx") == graph
    assert made.manifest.files[NAME].bytes < len(graph)
    with pytest.raises(BundleError, match="is packed"):
        made.model_file("onnx")


def test_a_flipped_bit_anywhere_is_refused() -> None:
    content = packed()
    for position in {*range(0, len(content), 997), 0, 7, 8, 12, 40, len(content) - 1}:
        broken = bytearray(content)
        broken[position] ^= 1
        with pytest.raises(PackedError):
            expand(bytes(broken))


@pytest.mark.parametrize("keep", [0, 4, 11, 12, 60, 0.5, -1])
def test_a_truncated_file(tmp_path: Path, keep: float) -> None:
    content = packed()
    cut = content[: int(keep * len(content)) if keep == 0.5 else int(keep)]
    with pytest.raises(PackedError):
        expand(cut)
    (tmp_path / "model.onnx.packed").write_bytes(cut)
    with pytest.raises(BundleError):
        check_content(tmp_path / "model.onnx.packed", NAME)


def test_a_file_that_grows_is_refused() -> None:
    with pytest.raises(PackedError, match="its header says"):
        expand(packed() + b"x")


def test_a_changed_file_in_a_bundle(tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle", packed())
    copy = Path(shutil.copytree(made.path, tmp_path / "copy"))
    content = bytearray((copy / NAME).read_bytes())
    content[-3] ^= 4
    (copy / NAME).write_bytes(content)
    with pytest.raises(BundleError, match="damaged"):
        Bundle.open(copy)
    with pytest.raises(BundleError, match="changed since"):
        Bundle.open(copy, verify=False).read_model("onnx")


def test_a_bomb_is_refused_before_it_is_expanded() -> None:
    for expanded, match in ((1 << 40, "more than a model may have"), (1 << 30, "times its size")):
        with pytest.raises(PackedError, match=match):
            expand(changed(packed(), expanded=expanded))


def test_a_stream_is_never_decoded_beyond_its_size() -> None:
    values = np.ones(100_000, np.uint8)
    content = pack(values.tobytes(), [Found(0, len(values), 1)], EXACT).content
    fields, streams = header(content)
    bomb = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    flood = bomb.compress(bytes(200 << 20)) + bomb.flush()
    skeleton, codes, gaps, exact = fields["streams"]
    parts = streams[:skeleton] + flood + streams[skeleton + codes :]
    with pytest.raises(PackedError, match="size that its header says"):
        expand(file(fields | {"streams": [skeleton, len(flood), gaps, exact]}, parts))


@pytest.mark.parametrize(
    "segments",
    [
        [[0, 10, 2, 10, 0, 0]],
        [[0, 10, 4, 11, 0, 0]],
        [[0, 10, 4, 10, 0, 257]],
        [[0, 10, 1, 10, 0, 4]],
        [[0, 10, 4, 5, 0, 0]],
        [[0, 10, 4, 5, 6, 0]],
        [[-1, 10, 4, 10, 0, 0]],
        [[0, 10, 4, 10, 0]],
        [[0, 10, 4, 10, 0, True]],
        [[0, 1 << 62, 4, 1 << 62, 0, 0]],
        [[0, 10, 4, 10, 0, 0], [39, 1, 1, 1, 0, 0]],
        {},
        None,
    ],
)
def test_parts_that_overlap_or_do_not_fit(segments: Any) -> None:
    with pytest.raises(PackedError):
        expand(changed(packed(), segments=segments))


def test_a_table_with_more_values_than_numbers_use_would_take_more_room_than_the_result() -> None:
    with pytest.raises(PackedError, match="do not fit"):
        expand(changed(packed(), segments=[[0, 10, 4, 10, 0, 11]]))


@pytest.mark.parametrize("fields", [[], {}, None, {"expanded": 3}])
def test_headers_of_another_kind(fields: Any) -> None:
    with pytest.raises(PackedError, match="header is not valid"):
        expand(file(fields, b""))


def test_a_header_that_is_nested_too_deeply() -> None:
    head = b"[" * 200_000
    with pytest.raises(PackedError, match="header is not valid"):
        expand(MAGIC + len(head).to_bytes(4, "little") + head)


def test_positions_outside_the_tensor_and_values_outside_the_table() -> None:
    values = np.zeros(2000, "<f4")
    values[::10] = np.arange(200) % 7
    fields, streams = header(pack(values.tobytes(), [Found(0, 2000, 4)], 4).content)
    offset, count, *rest = fields["segments"][0]
    shorter = fields | {"segments": [[offset, count - 1000, *rest]], "expanded": 4 * 1000}
    with pytest.raises(PackedError):
        expand(file(shorter, streams))
    *head, levels = fields["segments"][0]
    with pytest.raises(PackedError):
        expand(file(fields | {"segments": [[*head, levels - 1]]}, streams))


def test_a_hash_that_is_another() -> None:
    with pytest.raises(PackedError, match="something else"):
        expand(changed(packed(), sha256="0" * 64))


def test_a_graph_that_reads_other_files_cannot_hide_in_a_packed_one(tmp_path: Path) -> None:
    proto = ModelProto.FromString(tiny.graph(tiny.weights(200, 3)))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(StringStringEntryProto(key="location", value="../secret"))
    content = pack(proto.SerializeToString(), [], EXACT).content
    with pytest.raises(PackedError, match="another file"):
        expand_graph(content)
    with pytest.raises(BundleError, match="another file"):
        bundle(tmp_path / "bundle", content).read_model("onnx")


def test_something_else_with_the_suffix(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no packed model"):
        bundle(tmp_path / "bundle", b"PK\x03\x04" + bytes(100))


@pytest.mark.parametrize(
    "name", ["tool.py.packed", "labels.json.packed", "onnx/model.packed", "onnx/x.safetensors.packed"]
)
def test_only_graphs_and_weights_may_be_packed(tmp_path: Path, name: str) -> None:
    def write(folder: Path) -> None:
        tiny.write_files(folder)
        (folder / name).write_bytes(packed())

    with pytest.raises(BundleError, match="only a graph"):
        Bundle.create(tmp_path / "bundle", tiny.draft(), write)


def test_a_graph_is_there_plain_or_packed_and_never_both(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        tiny.write_files(folder)
        (folder / NAME).write_bytes(packed())

    with pytest.raises(BundleError, match="is there too") as caught:
        Bundle.create(tmp_path / "bundle", tiny.draft(), write)
    assert "remove one" in caught.value.fix
