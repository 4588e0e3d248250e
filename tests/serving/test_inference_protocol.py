"""The Open Inference Protocol V2, and the other conventions that foreign clients rely on."""

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
import served
import tiny

INFER = "/v2/models/tiny/infer"
TEXTS = tiny.SENTENCES[:4]


def body(*texts: str, **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)} | changes]}


def test_infer_gives_label_and_score(client: httpx.Client) -> None:
    reply = client.post(INFER, json={"id": "42", **body(*TEXTS)})
    assert reply.status_code == 200
    expected = [client.post("/predict", json={"text": text}).json() for text in TEXTS]
    assert reply.json() == {
        "model_name": "tiny",
        "model_version": "1",
        "id": "42",
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [4], "data": [answer["label"] for answer in expected]},
            {"name": "score", "datatype": "FP32", "shape": [4], "data": [answer["score"] for answer in expected]},
        ],
    }
    assert reply.headers["x-model-version"] == "1"


def test_the_whole_answer_on_demand(client: httpx.Client) -> None:
    reply = client.post("/v2/models/tiny/versions/1/infer", json=body(TEXTS[0]) | {"outputs": [{"name": "answer"}]})
    (output,) = reply.json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("answer", "BYTES", [1])
    assert output["data"] == [client.post("/predict", json={"text": TEXTS[0]}).text]


def test_a_column_is_a_list(client: httpx.Client) -> None:
    column = client.post(INFER, json=body("a", "b", shape=[2, 1], data=[["a"], ["b"]])).json()
    assert column == client.post(INFER, json=body("a", "b", shape=[2, 1])).json()
    assert column == client.post(INFER, json=body("a", "b")).json()


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        ({}, 422, "inputs"),
        ([], 422, "object"),
        ({"inputs": []}, 422, "text"),
        (body("a", name="txt"), 422, "text"),
        (body("a", datatype="FP32"), 422, "BYTES"),
        (body("a", shape=[2]), 422, "shape"),
        (body("a", shape=[-1]), 422, "shape"),
        (body("a", shape=[True]), 422, "shape"),
        (body("a", shape=[10**18]), 422, "shape"),
        (body("a", shape="x"), 422, "shape"),
        (body("a", data="a"), 422, "data"),
        (body("a", data=[1]), 422, "data[0].text"),
        (body("a", data=[["a"]]), 422, "data[0].text"),
        (body(shape=[0], data=[]), 422, "data"),
        (body(*["a"] * 300), 422, "data"),
        (body("a", extra=1), 422, "extra"),
        (body("a") | {"extra": 1}, 422, "extra"),
        (body("a") | {"id": 3}, 422, "id"),
        (body("a") | {"parameters": 3}, 422, "parameters"),
        (body("a") | {"outputs": []}, 422, "outputs"),
        (body("a") | {"outputs": [{"name": "logits"}]}, 422, "label"),
        (body("a") | {"outputs": [{"name": ["label"]}]}, 422, "label"),
        (body("a") | {"outputs": [{}]}, 422, "name"),
        ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES"}]}, 422, "data"),
    ],
)
def test_bad_tensors_are_refused_in_their_dialect(client: httpx.Client, content: Any, status: int, word: str) -> None:
    reply = client.post(INFER, json=content)
    assert (reply.status_code, list(reply.json())) == (status, ["error"])
    assert word in reply.json()["error"]


def test_a_failed_item_fails_the_request_and_is_named(client: httpx.Client) -> None:
    reply = client.post(INFER, json=body("a", served.POISON, "b"))
    assert (reply.status_code, reply.json()) == (422, {"error": "inputs[0].data[1]: the model failed on this input"})


def packed(texts: Sequence[bytes], *, size: object = None, header: bytes | None = None, tail: bytes = b"") -> Any:
    """Content and headers of a request as Triton's clients send it: no content type, the data behind the JSON."""
    data = b"".join(len(text).to_bytes(4, "little") + text for text in texts) + tail
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES"}
    tensor["parameters"] = {"binary_data_size": len(data) if size is None else size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = str(len(head)).encode() if header is None else header
    return {"content": head + data, "headers": {b"inference-header-content-length": length}}


def test_texts_may_come_as_bytes_behind_the_json(client: httpx.Client) -> None:
    found = client.post(INFER, **packed([text.encode() for text in TEXTS]))
    assert found.status_code == 200, found.text
    assert found.json() == client.post(INFER, json=body(*TEXTS)).json()
    without_type = client.post(INFER, content=json.dumps(body(*TEXTS)).encode())
    assert without_type.json() == found.json()


@pytest.mark.parametrize(
    ("sent", "status", "word"),
    [
        (packed([b"a"], header=b"99999"), 400, "inference-header-content-length"),
        (packed([b"a"], header=b"-1"), 400, "inference-header-content-length"),
        (packed([b"a"], header=b"1" * 30), 400, "inference-header-content-length"),
        (packed([b"a"], size=4), 422, "binary_data_size"),
        (packed([b"a"], size=True), 422, "binary_data_size"),
        (packed([b"a"], tail=b"\x01"), 422, "cut off"),
        (packed([b"a"], tail=b"\xff\xff\xff\xff"), 422, "cut off"),
        (packed([b"a"], tail=b"\0\0\0\0"), 422, "shape"),
        (packed([b"ok", b"\xff"]), 422, "data[1]"),
        (packed([b"a"] * 300), 422, "items"),
        (packed([]), 422, "items"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(client: httpx.Client, sent: Any, status: int, word: str) -> None:
    reply = client.post(INFER, **sent)
    assert reply.status_code == status
    assert word in reply.json()["error"]


def test_data_are_in_one_place_only(client: httpx.Client) -> None:
    both = {"inputs": [{**body("a")["inputs"][0], "parameters": {"binary_data_size": 0}}]}
    assert client.post(INFER, json=both).status_code == 422
    stray = json.dumps(body("a")).encode()
    headers = {"inference-header-content-length": str(len(stray))}
    assert client.post(INFER, content=stray + b"\0", headers=headers).status_code == 422


def test_metadata(client: httpx.Client) -> None:
    assert client.get("/v2").json()["name"] == "budwood"
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        model = client.get(path).json()
        assert (model["name"], model["versions"]) == ("tiny", ["1"])
        assert model["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        assert [output["name"] for output in model["outputs"]] == ["label", "score", "answer"]
        assert client.get(f"{path}/ready").json() == {"name": "tiny", "ready": True}
    for path in ("/v2/models/other", "/v2/models/tiny/versions/2", "/v2/models/other/ready"):
        reply = client.get(path)
        assert (reply.status_code, list(reply.json())) == (404, ["error"])


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"])
def test_health(client: httpx.Client, path: str) -> None:
    reply = client.get(path)
    assert reply.status_code == 200
    assert {"x-request-id", "x-model", "x-model-version"} <= set(reply.headers)


def test_the_list_of_models_is_openais(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert {"id": "tiny", "object": "model", "owned_by": "budwood"}.items() <= listed["data"][0].items()
    missing = client.get("/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "invalid_request_error")


def test_only_outputs_that_every_answer_has_are_offered() -> None:
    from budwood.serving.inference_protocol import offered
    from budwood.tasks.molecule_property import MoleculeProperty
    from budwood.tasks.text_classification import TextClassification

    assert offered(TextClassification(("a", "b"))) == ("label", "score", "answer")
    assert offered(TextClassification(("a", "b"), multi_label=True)) == ("answer",)
    assert offered(MoleculeProperty("regression", ranges=((0.0, 1.0),))) == ("answer",)
