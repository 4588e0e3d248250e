"""An ONNX graph may not refer to another file, wherever in the graph the reference hides, nor load code."""

from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from budwood.core.errors import BundleError
from budwood.core.opening import check_content


def check(folder: Path, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    check_content(folder / "model.onnx", "model.onnx")


def model() -> ModelProto:
    return ModelProto.FromString(tiny.graph(tiny.weights(20, 3)))


def refused_model(folder: Path, proto: ModelProto, match: str = "another file") -> None:
    with pytest.raises(BundleError, match=match):
        check(folder, proto.SerializeToString())


def external(location: str = "weights.data", flag: bool = True) -> TensorProto:
    result = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    result.ClearField("raw_data")
    if flag:
        result.data_location = TensorProto.EXTERNAL
    result.external_data.append(StringStringEntryProto(key="location", value=location))
    return result


def test_a_plain_graph_is_fine(tmp_path: Path) -> None:
    check(tmp_path, model().SerializeToString())


@pytest.mark.parametrize("location", ["w.data", "../w", "/etc/passwd", "", "*/_ORT_MEM_ADDR_/*"])
@pytest.mark.parametrize("flag", [True, False])
def test_external_data_in_an_initializer(tmp_path: Path, location: str, flag: bool) -> None:
    proto = model()
    proto.graph.initializer.append(external(location, flag))
    refused_model(tmp_path, proto)


def test_a_location_flag_alone(tmp_path: Path) -> None:
    proto = model()
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    refused_model(tmp_path, proto)


def constant(name: str = "c") -> NodeProto:
    return helper.make_node("Constant", [], [name], value=external())


def test_external_data_in_nested_places(tmp_path: Path) -> None:
    branch = helper.make_graph([constant()], "branch", [], [])
    deep = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=branch)], "deep", [], [])
    sparse = helper.make_sparse_tensor(external(), numpy_helper.from_array(np.zeros(2, np.int64)), [4])

    def graphs(node: NodeProto) -> ModelProto:
        proto = model()
        proto.graph.node.append(node)
        return proto

    listed = AttributeProto(name="t", type=AttributeProto.TENSORS, tensors=[external()])
    with_list = NodeProto(op_type="X", attribute=[listed])
    many = NodeProto(op_type="X", attribute=[AttributeProto(name="g", type=AttributeProto.GRAPHS, graphs=[deep])])
    proto = model()
    proto.functions.append(helper.make_function("", "f", [], ["c"], [constant()], [helper.make_opsetid("", 17)]))
    training = model()
    training.training_info.add().algorithm.CopyFrom(branch)
    sparse_graph = model()
    sparse_graph.graph.sparse_initializer.append(sparse)
    sparse_attribute = NodeProto(op_type="X")
    sparse_attribute.attribute.append(AttributeProto(name="s", sparse_tensor=sparse))
    nested = helper.make_node("Loop", ["n"], ["y"], body=deep)
    for item in (graphs(constant()), graphs(nested), graphs(with_list), graphs(many), graphs(sparse_attribute)):
        refused_model(tmp_path, item)
    for item in (proto, training, sparse_graph):
        refused_model(tmp_path, item)


@pytest.mark.parametrize("operator", ["EPContext", "PythonOp"])
def test_operators_that_load_code(tmp_path: Path, operator: str) -> None:
    proto = model()
    proto.graph.node.append(NodeProto(op_type=operator, domain="com.microsoft"))
    refused_model(tmp_path, proto, operator)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length = b""
    rest = len(content)
    while rest > 0x7F:
        length += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + content


def test_graphs_nested_without_end(tmp_path: Path) -> None:
    graph = b""
    for _ in range(2_000):
        graph = field(1, field(5, field(6, graph)))  # a node with an attribute with a graph
    with pytest.raises(BundleError, match="nested too deeply"):
        check(tmp_path, b"\x08\x08" + field(7, graph))


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"hello world", b"\x08\x08", b"\x18\0\0\0ORTM", b"\x08" + b"\xff" * 20]
)
def test_bytes_that_are_no_model(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError):
        check(tmp_path, content)


def test_a_truncated_model_at_every_length(tmp_path: Path) -> None:
    content = tiny.graph(tiny.weights(2, 2))
    end = content.rindex(b"logits")
    for length in range(0, end, 7):
        with pytest.raises(BundleError):
            check(tmp_path, content[:length])


@given(st.data())
def test_a_damaged_model_never_crashes_the_check(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(tiny.graph(tiny.weights(2, 2)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        check(tmp_path_factory.getbasetemp(), bytes(content))
    except BundleError as error:
        assert error.fix  # noqa: PT017  # most, but not all, damage can be seen
