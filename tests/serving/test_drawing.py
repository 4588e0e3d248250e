"""The drawing of an input over HTTP: an SVG that acts as nothing, for models that draw, within limits."""

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import served

pytest.importorskip("rdkit", reason="molecules need the extra chem")

import compounds

from budwood.serving import drawing
from budwood.serving.errors import HttpError
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import start


@pytest.fixture(scope="module")
def chemist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    bundle = compounds.fingerprint_bundle(tmp_path_factory.mktemp("drugs"))
    with (
        start([Served("drugs", "1", bundle)], limits=served.QUICK) as handle,
        httpx.Client(base_url=handle.url, timeout=30) as client,
    ):
        yield client


def test_a_molecule_comes_as_a_picture_that_does_nothing(chemist: httpx.Client) -> None:
    reply = chemist.post("/models/drugs/drawing", json={"smiles": "c1ccccc1CCl"})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/svg+xml")
    assert reply.text.startswith("<svg ")
    assert reply.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert chemist.get("/stats").json()["models"][0]["draws"] is True


@pytest.mark.parametrize(
    ("item", "field"), [({"smiles": "<script>"}, "smiles"), ({}, "smiles"), ({"smiles": "C" * 200}, "smiles")]
)
def test_what_cannot_be_drawn_is_refused(chemist: httpx.Client, item: dict[str, str], field: str) -> None:
    reply = chemist.post("/models/drugs/drawing", json=item)
    assert reply.status_code == 422
    assert reply.json()["errors"][0]["field"] == field
    assert "<script>" not in reply.headers.get("content-type", "")


def test_other_models_and_other_names_have_no_drawing(chemist: httpx.Client, client: httpx.Client) -> None:
    assert chemist.post("/models/other/drawing", json={"smiles": "CC"}).status_code == 404
    reply = client.post("/models/tiny/drawing", json={"text": "hello"})
    assert (reply.status_code, reply.json()["detail"]) == (404, "inputs of this model are not drawn")
    assert client.get("/stats").json()["models"][0]["draws"] is False


def test_only_a_few_are_drawn_at_the_same_time(chemist: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "PLACES", threading.BoundedSemaphore(1))
    drawing.PLACES.acquire()
    reply = chemist.post("/models/drugs/drawing", json={"smiles": "CC"})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    drawing.PLACES.release()
    assert chemist.post("/models/drugs/drawing", json={"smiles": "CC"}).status_code == 200


def test_a_drawing_counts_until_it_is_done_though_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(row: object) -> str:
        begun.set()
        assert go.wait(20)
        return "<svg/>"

    async def body() -> bytes:
        return b"{}"

    task = SimpleNamespace(draws=True, drawing=slow)
    service: Any = SimpleNamespace(
        find=lambda _: SimpleNamespace(task=task), refuse_unready=lambda: None, limits=Limits(), parse=lambda *_: {}
    )
    request: Any = SimpleNamespace(parameters={"name": "x"}, json_body=lambda _: body())
    monkeypatch.setattr(drawing, "PLACES", threading.BoundedSemaphore(1))

    async def main() -> None:
        handler = asyncio.create_task(drawing.drawing(service, request))
        await asyncio.to_thread(begun.wait, 20)
        handler.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handler
        with pytest.raises(HttpError, match="503"):
            await drawing.drawing(service, request)
        go.set()

    asyncio.run(main())  # it waits for its threads
    assert drawing.PLACES.acquire(blocking=False)
