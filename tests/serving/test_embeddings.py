"""POST /v1/embeddings: what the head of a classifier reads, by the `openai` package and in plain JSON."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

pytest.importorskip("torch")
pytest.importorskip("onnx")

import exported
import openai
import pictures
import tiny
import tiny_language

from budwood.core.bundle import Bundle
from budwood.core.step import Context
from budwood.engine.predictor import Predictor
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start
from budwood.steps.shrink.quantize_dynamic import QuantizeDynamic

TEXTS = ["Where is my parcel?", "I want my money back.", "Where is the parcel?"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Bundle:
    return exported.text(tmp_path_factory.mktemp("text"), tiny_bert)


@pytest.fixture(scope="module")
def server(bundle: Bundle, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    folder = tmp_path_factory.mktemp("served")
    image = exported.image(folder / "image")
    writer = tiny_language.bundle(folder / "writer")
    bundles = {"plain": tiny_bundle, "text": bundle, "image": image, "writer": writer}
    entries = [Served(name, "1", found) for name, found in bundles.items()]
    with start(entries, limits=Limits(notice_seconds=0, items=8)) as handle:
        yield handle


@pytest.fixture
def official(server: Handle) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


def ask(client: httpx.Client, **body: Any) -> Any:
    reply = client.post("/v1/embeddings", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_the_vectors_are_what_the_head_reads(official: openai.OpenAI, bundle: Bundle) -> None:
    found = official.embeddings.create(model="text", input=TEXTS)
    torch = Predictor.open(bundle, "torch")
    expected = torch.outputs([{"text": text} for text in TEXTS])["embedding"]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = np.asarray([item.embedding for item in found.data])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert [item.index for item in found.data] == [0, 1, 2]
    assert found.usage.prompt_tokens == found.usage.total_tokens > 3 * 4
    assert found.model == "text"


def test_floats_are_the_numbers_of_base64(client: httpx.Client) -> None:
    plain = ask(client, model="text", input=TEXTS[0])["data"][0]["embedding"]
    packed = ask(client, model="text", input=[TEXTS[0]], encoding_format="base64")["data"][0]["embedding"]
    vector = np.frombuffer(base64.b64decode(packed), "<f4")
    np.testing.assert_allclose(plain, vector, atol=1e-8)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_fewer_dimensions_are_the_first_ones_at_length_one(client: httpx.Client) -> None:
    whole = np.asarray(ask(client, model="text", input=TEXTS[0])["data"][0]["embedding"])
    part = ask(client, model="text", input=TEXTS[0], dimensions=5)["data"][0]["embedding"]
    np.testing.assert_allclose(part, whole[:5] / np.linalg.norm(whole[:5]), atol=1e-6)


def test_the_first_model_that_gives_vectors_answers_and_a_long_text_is_cut(client: httpx.Client) -> None:
    found = ask(client, input="parcel " * 100)
    assert found["model"] == "text"
    assert found["truncated"] is True
    assert found["usage"]["prompt_tokens"] == tiny.MAX_TOKENS
    assert "truncated" not in ask(client, input="parcel")


def test_images_have_vectors_too(client: httpx.Client) -> None:
    images = [pictures.encoded(pictures.scene(label, 3)) for label in pictures.COLOURS]
    texts = [base64.b64encode(image).decode() for image in images]
    found = ask(client, model="image", input=texts)
    vectors = np.asarray([item["embedding"] for item in found["data"]])
    assert len(vectors) == len(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert found["usage"]["prompt_tokens"] == 0


def test_an_int8_graph_keeps_its_vectors(bundle: Bundle, tmp_path: Path) -> None:
    context = Context(out=tmp_path / "int8", work=tmp_path / "work", splits=tiny.splits())
    small = QuantizeDynamic().apply(bundle, context)
    rows = [{"text": text} for text in TEXTS]
    exact, rough = (
        np.asarray([answer["embedding"] for answer in Predictor.open(each, "onnxruntime").embed(rows)])
        for each in (bundle, small)
    )
    assert (exact * rough).sum(axis=1).min() > 0.99


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "input"),
        ({"input": []}, 422, "input"),
        ({"input": ["x"] * 9}, 422, "input"),
        ({"input": [1, 2]}, 422, "input"),
        ({"input": [[1, 2]]}, 422, "input"),
        ({"input": ["x", None]}, 422, "input[1]"),
        ({"input": True}, 422, "input"),
        ({"input": "x" * 100_001}, 422, "input"),
        ({"input": "x", "encoding_format": "hex"}, 422, "encoding_format"),
        ({"input": "x", "dimensions": 0}, 422, "dimensions"),
        ({"input": "x", "dimensions": 4000}, 422, "dimensions"),
        ({"input": "x", "dimensions": True}, 422, "dimensions"),
        ({"input": "x", "user": 1}, 422, "user"),
        ({"input": "x", "colour": 1}, 422, "colour"),
        ({"input": "x", "model": 1}, 422, "model"),
        ({"input": "x", "model": "writer"}, 404, "model"),
        ({"input": "not an image", "model": "image"}, 422, "input"),
        ([], 422, "body"),
    ],
)
def test_refusals_name_the_field(client: httpx.Client, body: Any, status: int, field: str) -> None:
    if isinstance(body, dict):
        body = {"model": "text"} | body
    reply = client.post("/v1/embeddings", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, field)


def test_a_graph_without_vectors_names_the_command_that_makes_one(client: httpx.Client) -> None:
    reply = client.post("/v1/embeddings", json={"model": "plain", "input": "x"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (404, "model")
    assert "budwood export plain" in reply.json()["error"]["message"]


def test_predictions_go_on_beside_vectors(client: httpx.Client) -> None:
    label = client.post("/models/text/predict", json={"text": TEXTS[0]}).json()["label"]
    for _ in range(3):
        ask(client, model="text", input=TEXTS)
        assert client.post("/models/text/predict", json={"text": TEXTS[0]}).json()["label"] == label


@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
def test_the_server_keeps_to_the_document(server: Handle, mode: schemathesis.GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operation = schema["/v1/embeddings"]["POST"]

    @settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        response = case.call(timeout=30)
        # How many numbers a vector has is known to the model only, so the document cannot bound them.
        if "dimensions" not in response.text:
            case.validate_response(response)
        assert response.status_code < 500

    check()
