"""The queue of those who want texts: what nobody waits for leaves it, and large bodies are counted."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny_language

from budwood.engine.decoding import Sampling
from budwood.engine.generator import Decoder, Generator
from budwood.serving import desk as desk_module
from budwood.serving import http, strict_json
from budwood.serving.desk import Desk, Job, Wanted
from budwood.serving.errors import HttpError
from budwood.serving.limits import Limits


class Counters:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] += by


WANTED = Wanted(["Once"], [Sampling(max_tokens=5, seed=2)])
ENDLESS = Wanted(["Once"], [Sampling(max_tokens=100_000, min_tokens=100_000)])


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    return Generator.open(tiny_language.bundle(tmp_path_factory.mktemp("writer") / "bundle"))


@contextmanager
def desk(**limits: Any) -> Iterator[Desk]:
    opened = Desk(asyncio.get_running_loop(), Limits(**limits), Counters())  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        opened.close()


async def answer(job: Job) -> Any:
    return [event async for event in job]


def test_a_job_that_is_given_up_leaves_at_once_and_says_nothing_of_the_pace(generator: Generator) -> None:
    async def run() -> None:
        with desk() as opened:
            opened.seconds = 20.0
            for _ in range(100):
                opened.submit(generator, ENDLESS, pieces=True).stop()
            assert opened.texts == 0
            ((found,),) = await answer(opened.submit(generator, WANTED, pieces=False))
            assert found == generator.complete(WANTED.prompts, WANTED.options)[0]
            assert opened.seconds > 10.0

    asyncio.run(run())


def test_a_short_text_is_written_beside_long_ones_and_a_full_desk_refuses(generator: Generator) -> None:
    async def run() -> None:
        with desk(texts=4) as opened:
            long = [opened.submit(generator, ENDLESS, pieces=True) for _ in range(3)]
            assert len(await answer(opened.submit(generator, WANTED, pieces=False))) == 1
            assert not any(job.done for job in long)
            opened.submit(generator, ENDLESS, pieces=True)
            with pytest.raises(HttpError) as caught:
                opened.submit(generator, WANTED, pieces=False)
            assert caught.value.status == 503

    asyncio.run(run())


def test_what_is_not_begun_in_time_is_refused_and_what_is_begun_ends_as_it_is(generator: Generator) -> None:
    async def run() -> None:
        with desk(writing=1, text_seconds=0.3) as opened:
            first = opened.submit(generator, ENDLESS, pieces=False)
            # A part of the time of the first is over when it comes, so it would be the next.
            second = opened.submit(generator, Wanted(["x"], [Sampling(max_tokens=9)]), pieces=False)
            second.began -= 0.3
            ((found,),) = await answer(first)
            assert found.finish == "deadline"
            assert found.tokens > 0
            with pytest.raises(HttpError) as caught:
                await answer(second)
            assert caught.value.status == 504
            assert opened.metrics.counts["expired"] == 1  # type: ignore[attr-defined]

    asyncio.run(run())


def test_a_model_that_fails_fails_its_requests_only(generator: Generator) -> None:
    def broken(inputs: Any, cache: Any = None) -> Any:
        raise RuntimeError("no memory")

    async def run() -> None:
        with desk() as opened:
            other = Generator(Decoder(broken, generator.decoder.shape, broken), generator.vocabulary)
            for _ in range(2):
                with pytest.raises(HttpError) as caught:
                    await answer(opened.submit(other, WANTED, pieces=False))
                assert caught.value.status == 500
            going = opened.submit(generator, ENDLESS, pieces=True)
            biased = [Sampling(logit_bias=((10**6, 1.0),))]
            for bad in (Wanted(["\ud800"], WANTED.options), Wanted(["Once"], biased, n=2)):
                with pytest.raises(HttpError) as caught:
                    await answer(opened.submit(generator, bad, pieces=False))
                assert caught.value.status == 422
            assert not going.done
            going.stop()
            assert len(await answer(opened.submit(generator, WANTED, pieces=False))) == 1
            assert opened.texts == 0

    asyncio.run(run())


def test_a_model_for_which_nobody_asks_gives_its_memory_back_and_writes_again(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "IDLE_SECONDS", 0.01)

    async def run() -> None:
        with desk() as opened:
            first = await answer(opened.submit(generator, WANTED, pieces=False))
            pen = opened.pens[generator]
            await asyncio.to_thread(pen.join, 20)
            assert not pen.is_alive()
            assert await answer(opened.submit(generator, WANTED, pieces=False)) == first
            assert opened.pens[generator] is not pen

    asyncio.run(run())


def test_texts_take_a_part_of_the_memory_there_is(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    size = generator.decoder.shape.token_bytes
    assert desk_module.room(Limits(remembered_megabytes=1), generator).tokens == int(1e6 / size)
    monkeypatch.setattr(desk_module, "container_megabytes", lambda: 2.0)
    assert desk_module.room(Limits(), generator).tokens == int(desk_module.MEMORY_SHARE * 2e6 / size)
    monkeypatch.setattr(desk_module, "container_megabytes", lambda: 0.0)  # the system does not tell
    assert desk_module.room(Limits(), generator).tokens == int(4096e6 / size)


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
