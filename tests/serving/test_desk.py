"""The queue of those who want texts: what nobody waits for leaves it, and large bodies are counted."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import tiny_language

from budwood.engine.chat_template import ChatTemplate
from budwood.engine.chat_tokens import ChatTokens
from budwood.engine.decoding import Sampling
from budwood.engine.generator import Decoder, Generator, Prompt
from budwood.engine.scheduler import Scheduler
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


class Slow(Generator):
    """One that reads some prompts only when it is let."""

    def __init__(self, other: Generator) -> None:
        super().__init__(other.decoder, other.vocabulary)
        self.go = threading.Event()

    def encode(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            assert self.go.wait(20)
        return super().encode(prompt)


CHAT = Wanted([[{"role": "user", "content": "Hello"}]], WANTED.options)


def test_a_chat_that_takes_long_to_lay_out_stalls_no_text(generator: Generator) -> None:
    async def run() -> None:
        slow = Slow(generator)
        with desk() as opened:
            text = opened.submit(slow, ENDLESS, pieces=True)
            await anext(text)
            chat = opened.submit(slow, CHAT, pieces=False)
            before = text.tokens
            while text.tokens < before + 20:
                await asyncio.sleep(0.001)
            assert not chat.done
            slow.go.set()
            ((found,),) = await answer(chat)
            assert found == generator.complete(CHAT.prompts, CHAT.options)[0]

    asyncio.run(run())


def test_time_and_patience_end_also_before_a_prompt_is_read(generator: Generator) -> None:
    async def run() -> None:
        slow = Slow(generator)
        with desk() as opened:
            first, late, left = (opened.submit(slow, CHAT, pieces=False) for _ in range(3))
            late.began -= opened.limits.text_seconds
            left.stop()
            slow.go.set()
            assert len(await answer(first)) == 1
            with pytest.raises(HttpError) as caught:
                await answer(late)
            assert caught.value.status == 504
            assert await answer(left) == []
            assert len(await answer(opened.submit(slow, WANTED, pieces=False))) == 1
            assert opened.texts == 0

    asyncio.run(run())


def test_a_desk_that_closes_leaves_nobody_waiting(generator: Generator) -> None:
    async def run() -> None:
        slow = Slow(generator)
        with desk() as opened:
            jobs = [opened.submit(slow, wanted, pieces=True) for wanted in (ENDLESS, CHAT, CHAT)]
            await anext(jobs[0])
            pen = opened.pens[slow]
        slow.go.set()
        assert [await answer(job) for job in jobs[1:]] == [[], []]
        assert not pen.is_alive()
        with desk() as opened:  # one model only is closed
            slow.go.clear()
            job = opened.submit(slow, CHAT, pieces=True)
            opened.forget(slow)
            slow.go.set()
            with pytest.raises(HttpError) as caught:
                await answer(job)
            assert (caught.value.status, opened.texts) == (503, 0)

    asyncio.run(run())


def test_a_model_that_is_closed_leaves_no_process_behind(generator: Generator) -> None:
    template = ChatTemplate("Q: {{ messages[0].content }}", {})
    known = replace(generator.vocabulary, chats=ChatTokens(template, generator.vocabulary.tokenizer))

    async def run() -> None:
        other = Generator(generator.decoder, known)
        with desk() as opened:
            assert len(await answer(opened.submit(other, CHAT, pieces=False))) == 1
            process = template.process
            assert process is not None
            opened.forget(other)
            assert await asyncio.to_thread(process.wait, 20) is not None

    asyncio.run(run())


def test_a_thread_that_cannot_begin_fails_its_requests_and_the_next_one_writes(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Any:
        raise MemoryError

    async def run() -> None:
        with desk() as opened:
            with monkeypatch.context() as context:
                context.setattr(desk_module, "room", full)
                with pytest.raises(HttpError) as caught:
                    await asyncio.wait_for(answer(opened.submit(generator, WANTED, pieces=False)), 20)
                assert caught.value.status == 503
            assert len(await asyncio.wait_for(answer(opened.submit(generator, WANTED, pieces=False)), 20)) == 1
            with monkeypatch.context() as context:  # it fails, and cannot even forget what it had
                context.setattr(Scheduler, "turn", full)
                context.setattr(Scheduler, "drop", full)
                with pytest.raises(HttpError) as caught:
                    await asyncio.wait_for(answer(opened.submit(generator, WANTED, pieces=False)), 20)
            assert len(await asyncio.wait_for(answer(opened.submit(generator, WANTED, pieces=False)), 20)) == 1
            assert opened.texts == 0

    asyncio.run(run())


def test_a_prompt_on_which_the_model_fails_hurts_nobody_else(generator: Generator) -> None:
    decoder = generator.decoder
    poison = generator.vocabulary.size - 1

    def fragile(inputs: Any, cache: Any) -> Any:
        if poison in inputs["input_ids"]:
            raise RuntimeError("a token that the model does not have")
        assert decoder.in_place is not None
        return decoder.in_place(inputs, cache)

    async def run() -> None:
        other = Generator(Decoder(decoder.run, decoder.shape, fragile), generator.vocabulary)
        with desk() as opened:
            steady = [Sampling(max_tokens=100_000, min_tokens=100_000, logit_bias=((poison, -100.0),))]
            going = opened.submit(other, Wanted(["Once"], steady), pieces=True)
            await anext(going)
            for _ in range(3):
                with pytest.raises(HttpError) as caught:
                    await answer(opened.submit(other, Wanted([[0, poison]], WANTED.options, n=2), pieces=False))
                assert caught.value.status == 500
            before = going.tokens
            while going.tokens < before + 5:
                await asyncio.sleep(0.001)
            assert not going.done

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
