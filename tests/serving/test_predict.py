"""/predict and its equals: the answers, and every way to be refused."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import served
import tiny

from budwood.core.bundle import Bundle
from budwood.engine.predictor import Predictor
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import start

TEXT = "Where is my parcel?"
PATHS = ("/predict", "/invocations", "/models/tiny/predict")


def test_real_graph_answers_as_the_predictor(tiny_bundle: Bundle) -> None:
    rows = [{"text": text} for text in tiny.SENTENCES]
    predictor = Predictor.open(tiny_bundle, threads=1)
    with start([Served("tiny", "7", tiny_bundle)], limits=Limits(notice_seconds=0)) as handle:
        reply = httpx.post(f"{handle.url}/predict?top=2", json={"inputs": rows}).raise_for_status()
        single = httpx.post(f"{handle.url}/predict?top=2", json=rows[0]).json()
    expected = predictor.predict_all(rows, top=2)
    # Sums are added in another order in another batch, which may show in the last digit.
    for actual, answer in zip([*reply.json()["outputs"], single], [*expected, expected[0]], strict=True):
        assert actual["label"] == answer["label"]
        assert actual["scores"] == pytest.approx(answer["scores"], abs=1e-5)
    assert reply.headers["x-model-version"] == "7"


@pytest.mark.parametrize("path", PATHS)
def test_one_row_gives_one_answer(client: httpx.Client, path: str) -> None:
    reply = client.post(path, json={"text": TEXT})
    assert reply.status_code == 200
    answer = reply.json()
    assert answer["label"] in tiny.LABELS
    assert answer["score"] == max(answer["scores"].values())
    assert reply.headers["x-model"] == "tiny"
    assert len(reply.headers["x-request-id"]) == 32


def test_a_list_gives_a_list_in_order(client: httpx.Client) -> None:
    texts = tiny.SENTENCES[:4]
    singles = [client.post("/predict", json={"text": text}).json() for text in texts]
    mixed = [{"text": text} if i % 2 else text for i, text in enumerate(texts)]
    assert client.post("/predict", json={"inputs": mixed}).json() == {"outputs": singles}


def test_top_chooses_how_many_scores(client: httpx.Client) -> None:
    assert len(client.post("/predict", json={"text": TEXT}, params={"top": 1}).json()["scores"]) == 1
    assert len(client.post("/predict", json={"text": TEXT}).json()["scores"]) == 3


@pytest.mark.parametrize("top", ["0", "-1", "1001", "x", "", "1.5", "٣", "9" * 5000])
def test_top_out_of_range_is_refused(client: httpx.Client, top: str) -> None:
    reply = client.post("/predict", json={"text": TEXT}, params={"top": top})
    assert (reply.status_code, reply.json()["errors"][0]["field"]) == (422, "top")


def test_a_culprit_in_a_list_has_an_error_in_its_place(client: httpx.Client) -> None:
    reply = client.post("/predict", json={"inputs": ["a", "b", f"my {served.POISON}", "c", {"text": served.NAN}]})
    assert reply.status_code == 200
    good = [client.post("/predict", json={"text": text}).json() for text in "abc"]
    failed = {"error": {"status": 422, "detail": "the model failed on this input"}}
    odd = {"error": {"status": 422, "detail": "the model's answer to this input is not a finite number"}}
    assert reply.json() == {"outputs": [good[0], good[1], failed, good[2], odd]}


@pytest.mark.parametrize("count", [1, 3])
def test_a_list_without_any_answer_fails(client: httpx.Client, count: int) -> None:
    reply = client.post("/predict", json={"inputs": [served.POISON] * count})
    assert (reply.status_code, reply.json()["errors"][0]["field"]) == (422, "inputs[0]")


def test_lists_that_share_batches_with_a_culprit_are_answered(tmp_path: Path) -> None:
    """Many lists at once, some with a culprit: nobody else's item fails, and every list keeps its order."""
    lists = [[f"order {i}", "parcel", served.POISON if i % 3 == 0 else "refund"] for i in range(12)]
    with served.start_null(tmp_path / "b", delay_seconds=0.05) as handle:

        def ask(body: object) -> Any:
            return httpx.post(f"{handle.url}/predict", json=body, timeout=30).raise_for_status().json()

        with ThreadPoolExecutor(len(lists)) as pool:
            replies = list(pool.map(lambda texts: ask({"inputs": texts})["outputs"], lists))
        alone = {text: ask({"text": text}) for texts in lists for text in texts if text != served.POISON}
    for texts, outputs in zip(lists, replies, strict=True):
        assert [list(output) == ["error"] for output in outputs] == [text == served.POISON for text in texts]
        answered = [(text, output) for text, output in zip(texts, outputs, strict=True) if text != served.POISON]
        assert all(output == alone[text] for text, output in answered)


def test_batch_mates_of_a_culprit_are_answered(tmp_path: Path) -> None:
    """Many clients at once, so that their texts share batches: who is not to blame gets what it gets alone."""
    words = ["parcel", served.POISON, "refund", served.NAN, *(f"order {i}" for i in range(20))]
    with served.start_null(tmp_path / "b", delay_seconds=0.05) as handle:

        def ask(text: str) -> httpx.Response:
            return httpx.post(f"{handle.url}/predict", json={"text": text}, timeout=30)

        with ThreadPoolExecutor(len(words)) as pool:
            together = list(pool.map(ask, words))
        for word, reply in zip(words, together, strict=True):
            assert (reply.status_code == 422) == (word in (served.POISON, served.NAN))
            if reply.status_code == 200:
                assert reply.json() == ask(word).json()
        assert httpx.get(f"{handle.url}/stats").json()["queue_depth"] == 0


def test_the_longest_list_is_answered_although_others_wait(tmp_path: Path) -> None:
    texts = [f"order {i}" for i in range(Limits().items)]
    with served.start_null(tmp_path / "b", delay_seconds=0.1) as handle, ThreadPoolExecutor(8) as pool:

        def ask(body: dict[str, object]) -> int:
            return httpx.post(f"{handle.url}/predict", json=body, timeout=30).status_code

        others = [pool.submit(ask, {"text": "parcel"}) for _ in range(8)]
        deadline = time.monotonic() + 20
        while httpx.get(f"{handle.url}/stats").json()["queue_depth"] == 0 and time.monotonic() < deadline:
            pass
        assert ask({"inputs": list(texts)}) == 200
        assert [other.result() for other in others] == [200] * 8


def test_truncation_is_said(client: httpx.Client) -> None:
    assert client.post("/predict", json={"text": "parcel " * 200}).json()["truncated"] is True


@pytest.mark.parametrize("text", ["🙂🙂", "שלום עולם", "a\u0000b", "\u202eabc", "é" * 500])
def test_odd_texts_are_answered(client: httpx.Client, text: str) -> None:
    assert client.post("/predict", json={"text": text}).status_code == 200


def test_the_callers_request_id_is_kept_when_it_is_harmless(client: httpx.Client) -> None:
    kept = client.post("/predict", json={"text": TEXT}, headers={"x-request-id": "job-17.a_B"})
    assert kept.headers["x-request-id"] == "job-17.a_B"
    made = client.post("/predict", json={"text": TEXT}, headers={"x-request-id": "a b<script>"})
    assert len(made.headers["x-request-id"]) == 32


BAD_BODIES = {
    "empty": (b"", 400, ""),
    "truncated": (b'{"text": "a', 400, ""),
    "not UTF-8": (b'{"text": "\xff"}', 400, ""),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), 400, ""),
    "trailing": (b'{"text": "a"} x', 400, ""),
    "depth": (b"[" * 100_000, 400, ""),
    "closed depth": (b"[" * 17 + b"]" * 17, 400, ""),
    "digits": (b'{"text": ' + b"1" * 5000 + b"}", 400, ""),
    "big float": (b'{"text": 1e999}', 400, ""),
    "NaN": (b'{"text": NaN}', 400, ""),
    "Infinity": (b'{"text": -Infinity}', 400, ""),
    "duplicate keys": (b'{"text": "a", "text": "b"}', 400, ""),
    "lone surrogate": (rb'{"text": "a\ud800"}', 400, ""),
    "lone surrogate in a key": (rb'{"\udfff": "a"}', 400, ""),
    "control character": (b'{"text": "a\nb"}', 400, ""),
    "long text": (json.dumps({"text": "a" * 100_001}).encode(), 422, "text"),
    "long body": (json.dumps({"text": "a" * (1 << 20)}).encode(), 413, ""),
    "list": (b'["a"]', 422, "input"),
    "string": (b'"a"', 422, "input"),
    "null": (b"null", 422, "input"),
    "missing field": (b"{}", 422, "text"),
    "unknown field": (b'{"text": "a", "txet": "b"}', 422, "txet"),
    "number": (b'{"text": 1}', 422, "text"),
    "bool": (b'{"text": true}', 422, "text"),
    "null text": (b'{"text": null}', 422, "text"),
    "blank": (b'{"text": " \\t"}', 422, "text"),
    "no inputs": (b'{"inputs": []}', 422, "inputs"),
    "inputs not a list": (b'{"inputs": "a"}', 422, "inputs"),
    "bad input in a list": (b'{"inputs": ["a", {"text": 3}]}', 422, "inputs[1].text"),
    "unknown beside inputs": (b'{"inputs": ["a"], "top": 3}', 422, "top"),
    "too many inputs": (json.dumps({"inputs": ["a"] * 10_001}).encode(), 422, "inputs"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies_are_refused_by_name(client: httpx.Client, name: str) -> None:
    body, status, field = BAD_BODIES[name]
    reply = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["status"] == status
    assert problem["request_id"] == reply.headers["x-request-id"]
    assert problem.get("errors", [{"field": ""}])[0]["field"] == field
    assert reply.headers["x-model"] == "tiny"


def test_the_servers_own_limit_of_characters(tmp_path: Path) -> None:
    with served.start_null(tmp_path / "b", limits=Limits(notice_seconds=0, text_characters=10)) as handle:
        reply = httpx.post(f"{handle.url}/predict", json={"inputs": ["a" * 10, "a" * 11]})
    assert (reply.status_code, reply.json()["errors"][0]["field"]) == (422, "inputs[1].text")


def test_a_deep_but_allowed_body_is_read(client: httpx.Client) -> None:
    reply = client.post("/predict", content=b"[" * 16 + b"]" * 16, headers={"content-type": "application/json"})
    assert reply.status_code == 422


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "application/jsonx",
    ],
)
def test_other_content_types_are_refused(client: httpx.Client, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    assert client.post("/predict", content=b'{"text": "a"}', headers=headers).status_code == 415


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
def test_json_content_types_are_accepted(client: httpx.Client, kind: str) -> None:
    assert client.post("/predict", content=b'{"text": "a"}', headers={"content-type": kind}).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP"])
def test_content_encodings_are_refused(client: httpx.Client, encoding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    assert client.post("/predict", content=b'{"text": "a"}', headers=headers).status_code == 415


def test_unknown_names_and_methods(client: httpx.Client) -> None:
    assert client.post("/models/other/predict", json={"text": TEXT}).status_code == 404
    other_version = client.post("/models/tiny:9/predict", json={"text": TEXT})
    assert other_version.json()["detail"] == "no such model; served are: tiny:1"
    assert client.get("/nowhere").status_code == 404
    refused = client.get("/predict")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert client.delete("/models/tiny/predict").headers["allow"] == "POST"
    assert client.put("/livez").headers["allow"] == "GET, HEAD"


def test_head_has_no_body(client: httpx.Client) -> None:
    reply = client.head("/livez")
    assert (reply.status_code, reply.content) == (200, b"")


def test_several_models_and_versions(tiny_bundle: Bundle) -> None:
    entries = [Served("a", "1", tiny_bundle), Served("a", "2", tiny_bundle), Served("b", "1", tiny_bundle)]
    with start(entries, limits=Limits(notice_seconds=0)) as handle, httpx.Client(base_url=handle.url) as client:
        assert client.post("/predict", json={"text": TEXT}).headers["x-model"] == "a"
        assert client.post("/models/b/predict", json={"text": TEXT}).headers["x-model"] == "b"
        assert client.get("/v2/models/a").json()["versions"] == ["1", "2"]
        assert client.get("/v2/models/a/versions/2").headers["x-model-version"] == "2"
        assert [item["id"] for item in client.get("/v1/models").json()["data"]] == ["a", "a", "b"]
