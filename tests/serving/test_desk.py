"""The queue of those who want texts: what nobody waits for leaves it, and large bodies are counted."""

import asyncio
from typing import Any

import pytest

from budwood.serving import http, strict_json
from budwood.serving.desk import Desk
from budwood.serving.errors import HttpError
from budwood.serving.limits import Limits


class Counters:
    def count(self, *_: Any) -> None: ...


def test_a_job_that_is_given_up_leaves_the_queue_and_says_nothing_of_the_pace() -> None:
    async def run() -> None:
        desk = Desk(asyncio.get_running_loop(), Limits(), 1, Counters())  # type: ignore[arg-type]
        desk.threads[0].is_alive = lambda: True  # type: ignore[method-assign]  # nobody takes the jobs
        desk.seconds_per_text = 20.0
        for _ in range(100):
            desk.submit(1, lambda job: None).stop()
        assert len(desk.waiting) == desk.texts == 0
        assert desk.seconds_per_text == 20.0

    asyncio.run(run())


def test_long_bodies_are_refused_beyond_what_a_worker_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(bodies_bytes=5 << 20)
    monkeypatch.setattr(http, "LONG_BODIES", [0])
    first, second = (object.__new__(http.Request) for _ in range(2))
    first.reserved = second.reserved = 0
    first.reserve(4 << 20, limits)
    with pytest.raises(HttpError) as caught:
        second.reserve(2 << 20, limits)
    assert caught.value.status == 503
    first.release()
    second.reserve(2 << 20, limits)
    second.release()
    assert http.LONG_BODIES == [0]


def test_a_long_body_of_many_values_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(HttpError, match="may hold") as caught:
        strict_json.parse(b"[" + b"{}," * (1 << 19) + b"{}]", Limits())
    assert caught.value.status == 413


def test_a_repeated_key_among_many_is_found() -> None:
    body = "{" + ", ".join(f'"key{i}": 1' for i in range(50_000)) + ', "key7": 2}'
    with pytest.raises(HttpError, match="'key7' is there twice"):
        strict_json.parse(body.encode(), Limits())
