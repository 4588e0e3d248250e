"""Every field of /v1 at and beyond its bounds: each request is answered, or refused with the field, and never a 500."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import tiny_language

from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start

HUGE = 10**200
NUMBERS = (-1, 0, 1, 2, 0.5, -0.0, 1e308, -1e308, 5e-324, 2**31, 2**63 - 1, 2**63, HUGE, True, None, "1", [], {}, [1])
TEXTS = ("", "x", "\0", "\ufdd0", "\ufffd", "x" * 2000, None, 1, True, [], {}, [""], ["x"], ["x"] * 17, [["x"]], [None])
BIASES = (
    *({"0": bias} for bias in (-100, 100, 100.1, -101, 1e308, None, "1", True, [], HUGE)),
    *({token: 1} for token in ("", "-1", "00", "1e3", "0x1", "٣", "²", "9" * 400, "429", "430", "1.0", " 1")),
    *({str(token): 100 for token in range(count)} for count in (0, 1, 300, 301)),
    *([[0, 1]], "x", 1, True),
)
PROMPTS = ([], [[]], [0], [-1], [10**9], [1.0], [1.5], [True], [None], [[0], [0]], [[0], "x"], ["x", 0], ["x"] * 9)
PROMPTS = (*PROMPTS, [HUGE], [0] * 5000, [[[0]]], {"a": 1}, 7, "", "\0", "\ufdd0 <|endoftext|>")
TURNS = (
    *([], [{}], [1], [None], "x", {}, [[]], [{"role": "user"}], [{"content": "x"}], [{"role": "tool", "content": "x"}]),
    *(
        [{"role": "user", "content": content}]
        for content in (None, "", 1, [], [{}], [{"type": "text"}], {"a": 1}, "\0")
    ),
    [{"role": "user", "content": [{"type": "text", "text": 1}]}],
    [{"role": "assistant", "content": "x"}] * 300,
    [{"role": "user", "content": "x", "name": "y", "tool_calls": []}],
)
BOTH: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("n", "max_tokens", "min_tokens", "top_k", "seed", "best_of", "max_completion_tokens"), NUMBERS),
    **dict.fromkeys(("temperature", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty"), NUMBERS),
    **dict.fromkeys(("logprobs", "top_logprobs", "stream", "echo"), (*NUMBERS, 3, 5, 6, 20, 21, False)),
    **dict.fromkeys(("stop", "user", "suffix", "model"), TEXTS),
    "logit_bias": BIASES,
    "stream_options": ({}, {"include_usage": True}, {"include_usage": 1}, {"x": 1}, [], "x", 1, None),
    **dict.fromkeys(
        ("tools", "response_format", "store", "tool_choice", "functions"), (None, [], {}, [{}], "x", 1, True)
    ),
    **dict.fromkeys(("alternatives", "chat_template", "messages ", "__class__", ""), ("x", 1)),
}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Once", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    bundle = tiny_language.bundle(tmp_path_factory.mktemp("writer") / "bundle")
    with start([Served("writer", "1", bundle)], limits=Limits(notice_seconds=0, text_seconds=0.1)) as handle:
        yield handle


def cases() -> Iterator[Any]:
    for path, asked in ASKED.items():
        main = "prompt" if "prompt" in asked else "messages"
        for name, values in (*BOTH.items(), (main, PROMPTS if main == "prompt" else TURNS)):
            yield pytest.param(path, name, values, id=f"{path}-{name}")


@pytest.mark.parametrize(("path", "name", "values"), [*cases()])
def test_a_value_at_its_bounds_is_answered_or_refused(
    server: Handle, path: str, name: str, values: tuple[Any, ...]
) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for value in values:
            body = json.dumps(ASKED[path] | {name: value})
            reply = client.post(path, content=body, headers={"content-type": "application/json"})
            told = f"{name} = {body[:200]}: {reply.status_code} {reply.text[:300]}"
            assert reply.status_code == 200 or 400 <= reply.status_code < 500, told
            if reply.status_code != 200:
                assert reply.json()["error"]["message"], told
        assert client.post(path, json=ASKED[path]).status_code == 200


@pytest.mark.parametrize("path", ASKED)
def test_all_options_at_their_most(server: Handle, path: str) -> None:
    most = {"temperature": 100, "top_p": 1, "top_k": 10_000_000, "repetition_penalty": 100, "presence_penalty": 2}
    most |= {"frequency_penalty": 2, "seed": 2**63 - 1, "stop": ["x" * 1000] * 16, "n": 4}
    most |= {"logit_bias": {str(token): 100 for token in range(300)}}
    most |= {"logprobs": True, "top_logprobs": 20} if "chat" in path else {"logprobs": 5}
    reply = httpx.post(f"{server.url}{path}", json=ASKED[path] | most, timeout=30)
    assert reply.status_code == 200, reply.text
    assert "NaN" not in reply.text
    assert "Infinity" not in reply.text
