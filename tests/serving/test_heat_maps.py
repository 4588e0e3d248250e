"""Heat maps over HTTP: asked for in JSON or beside a file, in a PNG, and bounded in number."""

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pictures
import pytest
from PIL import Image

from budwood import flow
from budwood.core.bundle import Bundle
from budwood.core.store import Store
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start

pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("heat")
    pictures.base(root / "base", "resnet")
    pictures.folder(root / "scenes", 12)
    flow.adapt(root / "scenes", base=str(root / "base"), method="head", store=root / "models")
    return root


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Handle]:
    bundle = Store(home / "models").resolve("scenes").bundle
    with start([Served("scenes", "1", bundle)], limits=Limits(notice_seconds=0, explained=2)) as handle:
        yield handle


@pytest.fixture(scope="module")
def photo() -> bytes:
    return pictures.encoded(pictures.scene("green", 5))


def encoded(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


def is_png(uri: Any) -> bool:
    head, _, body = str(uri).partition(",")
    with Image.open(BytesIO(base64.b64decode(body))) as image:
        return head == "data:image/png;base64" and image.format == "PNG"


def test_a_map_comes_only_where_it_is_asked_for(server: Handle, photo: bytes) -> None:
    plain = httpx.post(f"{server.url}/predict", json={"image": encoded(photo)}).raise_for_status().json()
    assert "explanation" not in plain
    asked = {"image": encoded(photo), "explain": True}
    told = httpx.post(f"{server.url}/predict", json=asked, timeout=30).raise_for_status().json()
    assert is_png(told.pop("explanation"))
    assert told["label"] == plain["label"]


def test_a_file_asks_in_the_query(server: Handle, photo: bytes) -> None:
    reply = httpx.post(
        f"{server.url}/predict?explain=true&top=1", content=photo, headers={"content-type": "image/png"}, timeout=30
    )
    answer = reply.raise_for_status().json()
    assert is_png(answer["explanation"])
    assert len(answer["scores"]) == 1
    form = httpx.post(f"{server.url}/predict?explain=false", files={"image": photo}, timeout=30)
    assert "explanation" not in form.raise_for_status().json()


def test_a_request_may_ask_for_so_many_and_no_more(server: Handle, photo: bytes) -> None:
    item = {"image": encoded(photo), "explain": True}
    found = httpx.post(f"{server.url}/predict", json={"inputs": [item, item]}, timeout=30).raise_for_status().json()
    assert all(is_png(answer["explanation"]) for answer in found["outputs"])
    refused = httpx.post(f"{server.url}/predict", json={"inputs": [item] * 3})
    assert refused.status_code == 422
    assert "3 inputs ask for a heat map, at most 2" in refused.json()["detail"]


def test_the_query_asks_for_every_input_of_a_list_that_does_not_say_otherwise(server: Handle, photo: bytes) -> None:
    inputs = [encoded(photo), {"image": encoded(photo), "explain": False}]
    found = httpx.post(f"{server.url}/predict?explain=true", json={"inputs": inputs}, timeout=30).raise_for_status()
    assert ["explanation" in answer for answer in found.json()["outputs"]] == [True, False]
    refused = httpx.post(f"{server.url}/predict?explain=true", json={"inputs": [encoded(photo)] * 3})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "explain")


@pytest.mark.parametrize(("json", "query"), [({"explain": "yes"}, ""), ({}, "?explain=1"), ({}, "?heat=true")])
def test_what_is_neither_true_nor_false_is_refused(
    server: Handle, photo: bytes, json: dict[str, Any], query: str
) -> None:
    reply = httpx.post(f"{server.url}/predict{query}", json={"image": encoded(photo), **json})
    assert reply.status_code == 422


def test_the_document_names_the_field_and_the_parameter(server: Handle) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    names = [item["name"] for item in document["paths"]["/predict"]["post"]["parameters"]]
    assert names == ["top", "explain"]
    assert '"explain": {"type": "boolean"' in httpx.get(f"{server.url}/openapi.json").text


def test_predict_writes_maps_beside_the_answers(home: Path, tmp_path: Path) -> None:
    photos = sorted((home / "scenes" / "dark").glob("*"))[:2]
    found = list(flow.predict("scenes", [*photos, photos[0]], explain=tmp_path / "maps", store=home / "models"))
    names = [f"{photos[0].stem}.heat.png", f"{photos[1].stem}.heat.png", f"{photos[0].stem}-2.heat.png"]
    assert [answer["explanation"] for answer in found] == [str(tmp_path / "maps" / name) for name in names]
    for answer in found:
        with Image.open(answer["explanation"]) as image:
            assert image.format == "PNG"


def test_numbers_are_tensors_of_the_inference_protocol(home: Path, photo: bytes) -> None:
    data = pictures.greys(home / "greys", 60)
    made = flow.adapt(data, target="bright", base=str(home / "base"), store=home / "models")
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [encoded(photo)]}
    with start([Served("greys", "1", Bundle.open(made.path))], limits=Limits(notice_seconds=0)) as handle:
        outputs = httpx.get(f"{handle.url}/v2/models/greys").raise_for_status().json()["outputs"]
        reply = httpx.post(f"{handle.url}/v2/models/greys/infer", json={"inputs": [tensor]}, timeout=30)
        plain = httpx.post(f"{handle.url}/predict", json={"image": encoded(photo)}).raise_for_status().json()
    assert [(item["name"], item["datatype"]) for item in outputs] == [("value", "FP64"), ("answer", "BYTES")]
    (found,) = reply.raise_for_status().json()["outputs"]
    assert found["name"] == "value"
    assert found["data"] == pytest.approx([plain["value"]], rel=1e-4)
