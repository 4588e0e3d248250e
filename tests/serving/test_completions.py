"""Writing over HTTP: OpenAI's shapes, streams, and a desk whose room, time and patience are limited."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

pytest.importorskip("torch")
pytest.importorskip("onnx")

import served
import tiny
import tiny_language

from budwood.core.bundle import Bundle
from budwood.engine.decoding import Sampling
from budwood.engine.generator import Generator
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start
from budwood.serving.writing_schemas import up_to

LONG = {"prompt": "Once", "max_tokens": 100_000, "min_tokens": 100_000}
"""More tokens than any test waits for."""
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_language.bundle(tmp_path_factory.mktemp("writer") / "bundle")


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    other = tiny.bundle(tmp_path_factory.mktemp("other") / "bundle")
    limits = Limits(notice_seconds=0, texts=8)
    with start([Served("labels", "1", other), Served("writer", "1", bundle)], limits=limits) as handle:
        yield handle


@pytest.fixture(scope="module")
def quick(bundle: Bundle) -> Iterator[Handle]:
    """A server whose texts have a fifth of a second."""
    limits = Limits(notice_seconds=0, text_seconds=0.2)
    with start([Served("writer", "1", bundle)], limits=limits) as handle:
        yield handle


def ask(client: httpx.Client, path: str = "/v1/completions", **body: Any) -> Any:
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def events(text: str) -> list[Any]:
    """The events of a stream, without its end."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_the_api_writes_what_python_writes(client: httpx.Client, bundle: Bundle) -> None:
    found = ask(client, prompt="Once", max_tokens=12, seed=4, n=2)
    generator = Generator.open(bundle)
    expected = generator.complete(["Once"], Sampling(max_tokens=12, seed=4), n=2)
    assert [item["text"] for item in found["choices"]] == [item.text for item in expected]
    assert [item["finish_reason"] for item in found["choices"]] == [item.finish for item in expected]
    size, new = expected[0].prompt_tokens, sum(item.tokens for item in expected)
    assert found["usage"] == {"prompt_tokens": size, "completion_tokens": new, "total_tokens": size + new}
    assert (found["object"], found["model"], found["id"][:5]) == ("text_completion", "writer", "cmpl-")
    (answer,) = client.post("/models/writer/predict", json={"inputs": [{"text": "Once", "max_tokens": 12}]}).json()[
        "outputs"
    ]
    assert answer == generator.complete(["Once"], Sampling(max_tokens=12))[0].answer()


def test_a_stream_has_the_same_text_and_ends_with_the_usage(client: httpx.Client) -> None:
    body = {"prompt": ["Once", "The old man"], "max_tokens": 10, "model": "writer:1"}
    whole = ask(client, **body)
    reply = client.post("/v1/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}})
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["x-model"] == "writer"
    found = events(reply.text)
    assert found[-1]["choices"] == []
    assert found[-1]["usage"] == whole["usage"]
    for index in (0, 1):
        mine = [item for event in found for item in event["choices"] if item["index"] == index]
        assert "".join(item["text"] for item in mine) == whole["choices"][index]["text"]
        assert [item["finish_reason"] for item in mine if item["finish_reason"]] == ["length"]


def test_a_prompt_that_was_cut_is_told_of_whole_and_in_a_stream(client: httpx.Client) -> None:
    for prompt, cut in (("Once " * 400, True), ("Once", None)):
        assert ask(client, prompt=prompt, max_tokens=2).get("truncated") is cut
        reply = client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 2, "stream": True})
        assert {event.get("truncated") for event in events(reply.text)} == {cut}


def test_a_chat_is_answered_and_streamed(client: httpx.Client) -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Tell "}, {"type": "text", "text": "a story."}]},
    ]
    body = {"messages": turns, "max_completion_tokens": 10, "n": 2, "logprobs": None, "frequency_penalty": 0}
    whole = ask(client, "/v1/chat/completions", **body)
    assert whole["object"] == "chat.completion"
    texts = [item["message"]["content"] for item in whole["choices"]]
    assert {item["message"]["role"] for item in whole["choices"]} == {"assistant"}
    assert all(text == text.lstrip(" ") for text in texts)
    found = events(client.post("/v1/chat/completions", json=body | {"stream": True}).text)
    assert {event["object"] for event in found} == {"chat.completion.chunk"}
    for index, text in enumerate(texts):
        mine = [event["choices"][0] for event in found if event["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(item["delta"].get("content", "") for item in mine) == text
        assert (mine[-1]["delta"], mine[-1]["finish_reason"]) == ({}, whole["choices"][index]["finish_reason"])


def test_a_stop_string_ends_the_text(client: httpx.Client) -> None:
    (free,) = ask(client, prompt="Once", max_tokens=30, seed=1)["choices"]
    stop = free["text"][5:8]
    (choice,) = ask(client, prompt="Once", max_tokens=30, seed=1, stop=stop)["choices"]
    assert choice["text"] == free["text"][: free["text"].index(stop)]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/v1/completions", {}, 422, "prompt"),
        ("/v1/completions", {"prompt": [1, "x"]}, 422, "prompt"),
        ("/v1/completions", {"prompt": [1, 10_000_000]}, 422, "prompt"),
        ("/v1/completions", {"prompt": [[1], []]}, 422, "prompt"),
        ("/v1/completions", {"prompt": [True]}, 422, "prompt"),
        ("/v1/completions", {"prompt": []}, 422, "prompt"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 0}, 422, "max_tokens"),
        ("/v1/completions", {"prompt": "x", "temperature": "hot"}, 422, "temperature"),
        ("/v1/completions", {"prompt": "x", "n": 9}, 422, "n"),
        ("/v1/completions", {"prompt": ["x"] * 5, "n": 2}, 422, "n"),
        ("/v1/completions", {"prompt": "x", "stream": 1}, 422, "stream"),
        ("/v1/completions", {"prompt": "x", "stream_options": {"a": 1}}, 422, "stream_options"),
        ("/v1/completions", {"prompt": "x", "logprobs": 6}, 422, "logprobs"),
        ("/v1/completions", {"prompt": "x", "logprobs": True}, 422, "logprobs"),
        ("/v1/completions", {"prompt": "x", "logprobs": 1, "echo": True}, 422, "echo"),
        ("/v1/completions", {"prompt": "x", "echo": 1}, 422, "echo"),
        ("/v1/completions", {"prompt": "x", "best_of": 2}, 422, "best_of"),
        ("/v1/completions", {"prompt": "x", "presence_penalty": 3}, 422, "presence_penalty"),
        ("/v1/completions", {"prompt": "x", "logit_bias": [1]}, 422, "logit_bias"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"x": 1}}, 422, "logit_bias"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"9999999": 1}}, 422, "logit_bias"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"01": 1}}, 422, "logit_bias"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"1": 101}}, 422, "logit_bias"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {str(at): 1 for at in range(301)}}, 422, "logit_bias"),
        ("/v1/completions", {"prompt": "x", "user": 2}, 422, "user"),
        ("/v1/completions", {"prompt": "x", "top": 2}, 422, "top"),
        ("/v1/completions", {"prompt": "x" * 100_001}, 422, "prompt"),
        ("/v1/completions", {"prompt": "x", "model": "labels"}, 404, "model"),
        ("/v1/completions", {"prompt": "x", "model": "nobody"}, 404, None),
        ("/v1/completions", {"prompt": "x", "model": 1}, 422, "model"),
        ("/v1/completions", [1], 422, "body"),
        ("/v1/chat/completions", CHAT | {"logprobs": 1}, 422, "logprobs"),
        ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 21}, 422, "top_logprobs"),
        ("/v1/chat/completions", CHAT | {"top_logprobs": 2}, 422, "top_logprobs"),
        ("/v1/chat/completions", CHAT | {"echo": True}, 422, "echo"),
        ("/v1/chat/completions", CHAT | {"max_completion_tokens": 0}, 422, "max_completion_tokens"),
        ("/v1/chat/completions", CHAT | {"response_format": {"type": "json_object"}}, 422, "response_format"),
        ("/v1/chat/completions", CHAT | {"chat_template": "{{ 1 }}"}, 422, "chat_template"),
        ("/v1/chat/completions", {"messages": "hello"}, 422, "messages"),
        ("/v1/chat/completions", {"messages": []}, 422, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "king", "content": "x"}]}, 422, "messages"),
        ("/v1/chat/completions", {"messages": CHAT["messages"] * 1_001}, 422, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 50_001}] * 2}, 422, "messages"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            422,
            "messages[0].content",
        ),
    ],
)
def test_refusals_have_the_shape_that_clients_expect(
    client: httpx.Client, path: str, body: Any, status: int, field: str | None
) -> None:
    reply = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", field)
    assert error["message"]


def test_texts_to_write_and_to_measure_are_asked_for_apart(client: httpx.Client) -> None:
    measured = {"text": "Once upon a time", "measure": True}
    reply = client.post("/models/writer/predict", json={"inputs": [measured, {"text": "Once"}]})
    assert (reply.status_code, reply.json()["errors"][0]["field"]) == (422, "measure")
    (answer,) = client.post("/models/writer/predict", json={"inputs": [measured]}).json()["outputs"]
    assert answer["perplexity"] > 1


def test_a_chat_to_be_measured_is_short_since_it_is_laid_out_for_each_answer(client: httpx.Client) -> None:
    turns = [*CHAT["messages"], {"role": "assistant", "content": "y"}]
    for times, status in ((50, 200), (51, 422)):
        reply = client.post("/models/writer/predict", json={"messages": turns * times, "measure": True})
        assert reply.status_code == status, reply.text
    assert [error["field"] for error in reply.json()["errors"]] == ["messages"]


def test_a_long_text_holds_no_prediction_up_and_a_full_desk_refuses(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/completions", json=LONG | {"stream": True, "n": 8}) as reply:
        parts = reply.iter_text()
        assert next(parts).startswith("data: ")
        assert client.post("/predict", json={"text": "where is my parcel"}).status_code == 200
        refused = client.post("/v1/completions", json={"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "server_error")
        assert int(refused.headers["retry-after"]) >= 1
    # The client has left, so its texts stop and there is room again.
    wait_until(lambda: client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200)
    figures = client.get("/metrics").text
    assert metric(figures, "budwood_cancelled_total") >= 1
    assert metric(figures, "budwood_rejected_total") >= 1
    assert metric(figures, "budwood_written_tokens_total") > 0


def test_who_leaves_before_the_answer_frees_the_desk(client: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/completions", json=LONG | {"n": 8}, timeout=0.5)
    wait_until(lambda: client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200)


def test_texts_end_with_the_clock_and_what_was_not_begun_is_refused(bundle: Bundle) -> None:
    limits = Limits(notice_seconds=0, text_seconds=1.0, drain_seconds=1.0)
    with start([Served("writer", "1", bundle)], limits=limits) as handle, httpx.Client(base_url=handle.url) as client:
        (choice,) = ask(client, **LONG)["choices"]
        assert choice["finish_reason"] == "length"
        assert len(choice["text"]) > 10
        answer = client.post("/predict", json={"text": "Once", "max_tokens": 9999, "min_tokens": 9999}).json()
        assert answer["finish_reason"] == "deadline"


def test_a_server_without_a_writer_says_so(tmp_path: Path) -> None:
    with served.start_null(tmp_path / "bundle") as handle:
        reply = httpx.post(f"{handle.url}/v1/completions", json={"prompt": "x"})
    assert reply.status_code == 404
    assert "writes texts" in reply.json()["error"]["message"]


def metric(text: str, name: str) -> float:
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")))


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
def test_a_writer_keeps_to_the_document(quick: Handle, path: str, mode: schemathesis.GenerationMode) -> None:
    operation = schemathesis.openapi.from_url(f"{quick.url}/openapi.json")[path]["POST"]

    @settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.validate_response(case.call(timeout=30))

    check()


@pytest.mark.parametrize("most", [0, 7, 10, 99, 100, 429, 1000, 2019])
def test_the_pattern_of_numbers_up_to_a_number(most: int) -> None:
    pattern = re.compile(f"({up_to(most)})")
    assert [number for number in range(3000) if pattern.fullmatch(str(number))] == [*range(most + 1)]
    assert not pattern.fullmatch("00")
    assert not pattern.fullmatch("01")
