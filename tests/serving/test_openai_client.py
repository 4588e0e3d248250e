"""The `openai` package against a started server: what it sends is understood, what it reads is there."""

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("openai")

import httpx
import openai
import tiny
import tiny_language

from budwood.core.bundle import Bundle, Draft, StepRecord
from budwood.engine.generator import Generator
from budwood.serving.limits import Limits
from budwood.serving.model import Served
from budwood.serving.server import Handle, start


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_language.bundle(tmp_path_factory.mktemp("writer") / "bundle")


@pytest.fixture(scope="module")
def handle(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    other = tiny.bundle(tmp_path_factory.mktemp("other") / "bundle")
    limits = Limits(notice_seconds=0, texts=8)
    with start([Served("labels", "1", other), Served("writer", "1", bundle)], limits=limits) as handle:
        yield handle


@pytest.fixture
def client(handle: Handle) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{handle.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


def test_the_models_are_listed(client):
    listed = [*client.models.list()]
    assert [model.id for model in listed] == ["labels", "writer"]
    assert client.models.retrieve("writer") == client.models.retrieve("writer:1") == listed[1]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_text_comes_with_the_log_probabilities_of_its_tokens(client, bundle):
    found = client.completions.create(model="writer", prompt="Once", max_tokens=6, logprobs=3, temperature=5.0)
    (choice,) = found.choices
    logs = choice.logprobs
    assert len(logs.tokens) == len(logs.token_logprobs) == len(logs.top_logprobs) == len(logs.text_offset) == 6
    assert found.usage.completion_tokens == 6
    assert found.system_fingerprint.startswith("budwood-")
    # They are those of the model's own distribution, whatever the temperature.
    generator = Generator.open(bundle)
    rows = generator.decoder.rows(1)
    expected = rows.read(rows.open(), generator.encode("Once")).astype(np.float64).ravel()
    expected -= np.log(np.exp(expected).sum())
    assert logs.token_logprobs[0] in [pytest.approx(value, abs=1e-4) for value in expected]
    assert max(logs.top_logprobs[0].values()) == pytest.approx(expected.max(), abs=1e-4)
    assert 3 <= len(logs.top_logprobs[0]) <= 4
    assert logs.top_logprobs[0][logs.tokens[0]] == logs.token_logprobs[0]
    assert logs.text_offset[0] == 0
    assert logs.text_offset == sorted(logs.text_offset)


def test_a_stream_has_the_same_tokens_as_the_whole_text(client):
    asked = {"model": "writer", "prompt": ["Once", "The"], "max_tokens": 8, "logprobs": 1, "n": 2, "seed": 3}
    whole = client.completions.create(**asked)
    events = [*client.completions.create(**asked, stream=True, stream_options={"include_usage": True})]
    assert events[-1].usage == whole.usage
    assert all(event.usage is None for event in events[:-1])
    for choice in whole.choices:
        mine = [item for event in events for item in event.choices if item.index == choice.index]
        assert "".join(item.text for item in mine) == choice.text
        parts = [item.logprobs for item in mine if item.logprobs]
        assert [token for part in parts for token in part.tokens] == choice.logprobs.tokens
        assert [at for part in parts for at in part.text_offset] == choice.logprobs.text_offset
        joined = [log for part in parts for log in part.token_logprobs]
        np.testing.assert_allclose(joined, choice.logprobs.token_logprobs, atol=1e-5)


def test_a_chat_has_tokens_with_their_bytes(client):
    asked = {"model": "writer", "messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 8}
    found = client.chat.completions.create(**asked, logprobs=True, top_logprobs=20)
    (choice,) = found.choices
    assert choice.message.role == "assistant"
    content = choice.logprobs.content
    assert len(content) == found.usage.completion_tokens
    spelled = bytes(byte for item in content for byte in item.bytes).decode(errors="replace")
    assert spelled.lstrip(" ").startswith(choice.message.content.rstrip("\ufffd"))
    for item in content:
        assert len(item.top_logprobs) == 20
        logs = [other.logprob for other in item.top_logprobs]
        assert logs == sorted(logs, reverse=True)
        assert sum(map(math.exp, logs)) < 1
    events = [*client.chat.completions.create(**asked, logprobs=True, stream=True)]
    streamed = [item for event in events for part in event.choices if part.logprobs for item in part.logprobs.content]
    assert [item.token for item in streamed] == [item.token for item in content]
    assert all(item.top_logprobs == [] for item in streamed)
    plain = client.chat.completions.create(**asked)
    assert plain.choices[0].logprobs is None
    assert plain.choices[0].message.content == choice.message.content


def test_an_echo_begins_with_the_prompt(client):
    plain = client.completions.create(model="writer", prompt=["Once", "The"], max_tokens=4, n=2)
    echoed = client.completions.create(model="writer", prompt=["Once", "The"], max_tokens=4, n=2, echo=True)
    prompts = ["Once", "Once", "The", "The"]
    assert [choice.text for choice in echoed.choices] == [
        prompt + choice.text for prompt, choice in zip(prompts, plain.choices, strict=True)
    ]
    texts = [""] * 4
    for event in client.completions.create(
        model="writer", prompt=["Once", "The"], max_tokens=4, n=2, echo=True, stream=True
    ):
        for item in event.choices:
            texts[item.index] += item.text
    assert texts == [choice.text for choice in echoed.choices]


def test_a_prompt_may_be_token_ids(client, bundle):
    ids = Generator.open(bundle).encode("Once")
    text = client.completions.create(model="writer", prompt="Once", max_tokens=5, echo=True)
    for prompt in (ids, [ids]):
        found = client.completions.create(model="writer", prompt=prompt, max_tokens=5, echo=True)
        assert found.choices[0].text == text.choices[0].text
        assert found.usage == text.usage


def test_a_bias_and_penalties_change_what_is_written(client, bundle):
    vocabulary = Generator.open(bundle).vocabulary
    (token,) = vocabulary.encode(" bird")
    asked = {"model": "writer", "prompt": "Once", "max_tokens": 4, "temperature": 0}
    forced = client.completions.create(**asked, logit_bias={str(token): 100})
    assert forced.choices[0].text == " bird" * 4
    freed = client.completions.create(**asked, logit_bias={str(token): 100}, frequency_penalty=2, logprobs=0)
    assert freed.choices[0].text == " bird" * 4  # 2 a time is little beside 100
    plain = client.completions.create(**asked | {"max_tokens": 30}, logprobs=0).choices[0]
    spread = client.completions.create(**asked | {"max_tokens": 30}, logprobs=0, presence_penalty=2).choices[0]
    assert len({*spread.logprobs.tokens}) >= len({*plain.logprobs.tokens})


def test_a_stop_string_ends_text_and_tokens(client):
    asked = {"model": "writer", "prompt": "Once", "max_tokens": 30, "seed": 1, "logprobs": 0}
    free = client.completions.create(**asked).choices[0]
    stop = free.text[5:8]
    found = client.completions.create(**asked, stop=[stop, "never"]).choices[0]
    assert found.finish_reason == "stop"
    assert found.text == free.text[: free.text.index(stop)]
    kept = [
        token for token, at in zip(free.logprobs.tokens, free.logprobs.text_offset, strict=True) if at < len(found.text)
    ]
    assert found.logprobs.tokens == kept[: len(found.logprobs.tokens)]
    assert all(at < max(1, len(found.text)) for at in found.logprobs.text_offset)


def test_errors_are_those_that_the_client_knows(client):
    with pytest.raises(openai.NotFoundError, match="no such model"):
        client.completions.create(model="nobody", prompt="x")
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.completions.create(model="writer", prompt="x", logprobs=9)
    assert caught.value.param == "logprobs"
    assert caught.value.type == "invalid_request_error"


def test_a_key_that_is_missing_or_wrong_is_an_authentication_error(bundle: Bundle, tmp_path: Path):
    keys = tmp_path / "keys.txt"
    made = subprocess.run(
        [sys.executable, "-m", "budwood.serving.auth", str(keys), "alice"], check=True, capture_output=True, text=True
    )
    with start([Served("writer", "1", bundle)], keys=keys, limits=Limits(notice_seconds=0)) as handle:
        address = f"{handle.url}/v1"
        with openai.OpenAI(base_url=address, api_key=made.stdout.split()[-1], max_retries=0) as client:
            assert client.completions.create(model="writer", prompt="x", max_tokens=1).choices
        wrong = openai.OpenAI(base_url=address, api_key="wrong", max_retries=0)
        with wrong as client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_a_chat_is_laid_out_by_the_template_of_the_bundle(tmp_path: Path):
    template = "{% if messages | length > 2 %}{{ raise_exception('one at a time') }}{% endif %}"
    template += "Q: {{ messages[-1].content }}\nA:"
    plain = tiny_language.gpt2(tmp_path / "plain")

    def write(stage: Path) -> None:
        from budwood.engine.causal_graph import export_causal_graph
        from budwood.tasks.text_generation import TextGeneration

        (plain / "chat_template.jinja").write_text(template)
        TextGeneration.take_base(plain, stage)
        (stage / "onnx").mkdir()
        export_causal_graph(plain, stage / "onnx" / "model.onnx")

    task = {"name": "text_generation", "kind": "chats", "max_tokens": 64}
    draft = Draft(parent=None, history=(StepRecord(name="base"),), task=task, base="tiny")
    bundle = Bundle.create(tmp_path / "bundle", draft, write)
    ids = Generator.open(bundle).vocabulary.encode("Q: Hello\nA:")
    server = start([Served("writer", "1", bundle)], limits=Limits(notice_seconds=0))
    with server as handle, openai.OpenAI(base_url=f"{handle.url}/v1", api_key="none", max_retries=0) as client:
        asked = {"model": "writer", "max_tokens": 5}
        turn = {"role": "user", "content": "Hello"}
        found = client.chat.completions.create(**asked, messages=[turn])
        same = client.completions.create(**asked, prompt=ids)
        assert found.choices[0].message.content == same.choices[0].text
        assert found.usage == same.usage
        ours = httpx.post(f"{handle.url}/predict", json={"messages": [turn], "max_tokens": 5}).json()
        assert ours["text"] == found.choices[0].message.content
        refused = httpx.post(f"{handle.url}/predict", json={"messages": [turn] * 3})
        assert (refused.status_code, "one at a time" in refused.text) == (422, True)
        with pytest.raises(openai.UnprocessableEntityError, match="one at a time") as caught:
            list(client.chat.completions.create(**asked, messages=[turn] * 3, stream=True))
        with pytest.raises(openai.UnprocessableEntityError, match="one at a time") as caught:
            client.chat.completions.create(**asked, messages=[turn] * 3)
        assert caught.value.param == "messages"
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.chat.completions.create(**asked, messages=[turn], extra_body={"chat_template": "{{ 1 }}"})
        assert caught.value.param == "chat_template"
