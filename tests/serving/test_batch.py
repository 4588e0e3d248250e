"""The batcher, with a predictor that waits until the test lets it go."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from budwood.core.errors import DataError
from budwood.core.task import Answer, Row
from budwood.serving.batch import Answered, Batcher, Failed, Ticket
from budwood.serving.errors import HttpError
from budwood.serving.limits import Limits
from budwood.serving.metrics import Board, Described, Metrics, allocate, make_layout


class Panic(BaseException):
    """What a native library raises when it gives up: no Exception."""


def lengths(rows: Sequence[Row]) -> list[int]:
    return [len(row["text"]) for row in rows]


@dataclass
class Gate:
    """A predictor that notes its batches, and holds each until `opened`."""

    batches: list[list[str]] = field(default_factory=list)
    opened: threading.Event = field(default_factory=threading.Event)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    task: Any = field(default_factory=lambda: SimpleNamespace(lengths=lengths, length_is_work=True))

    def predict(self, rows: Sequence[Row], top: int) -> list[Answer]:
        texts = [row["text"] for row in rows]
        self.batches.append(texts)
        self.started.release()
        assert self.opened.wait(20)
        for text in texts:
            if text in FAILURES:
                raise FAILURES[text]
        return [{"label": text, "score": float("nan") if text == "nan" else 0.5, "top": top} for text in texts]


FAILURES: dict[str, BaseException] = {
    "bad": RuntimeError("bad"),
    "data": DataError("too odd", where="text"),
    "panic": Panic(),
    "memory": MemoryError(),
}


@dataclass
class Bench:
    """A batcher around a gate, on the running loop."""

    gate: Gate
    batcher: Batcher
    board: Board

    def submit(self, *texts: str, top: int = 3, gate: Gate | None = None) -> Ticket:
        rows = [{"text": text, "explain": text.startswith("map")} for text in texts]
        return self.batcher.submit(self.model(gate or self.gate), rows, top)

    def at_once(self, *texts: str, client: object = "one", gate: Gate | None = None) -> list[Any]:
        rows = [{"text": text} for text in texts]
        return labels(self.batcher.at_once(self.model(gate or self.gate), rows, 3, client))

    def model(self, predictor: Gate) -> Any:
        self.models = getattr(self, "models", {})
        model = SimpleNamespace(predictor=predictor, task=predictor.task, index=len(self.models))
        return self.models.setdefault(id(predictor), model)

    async def busy(self) -> Ticket:
        """Occupy the one runner."""
        ticket = self.submit("first")
        await asyncio.to_thread(self.gate.started.acquire)
        return ticket


def with_bench(
    body: Callable[[Bench], Coroutine[Any, Any, None]], *, queue: int = 100, runners: int = 1, **limits: Any
) -> Gate:
    async def main() -> Gate:
        layout = make_layout([Described("m", "1", ("a",))], 1)
        memory = allocate(layout)
        loop, gate = asyncio.get_running_loop(), Gate()
        batcher = Batcher(loop, Limits(**limits), queue, runners, Metrics(layout, memory, 0))
        try:
            await asyncio.wait_for(body(Bench(gate, batcher, Board(layout, memory))), 20)
        finally:
            gate.opened.set()
            await asyncio.to_thread(batcher.close)
        return gate

    return asyncio.run(main())


def labels(results: Sequence[Answered | Failed]) -> list[Any]:
    return [item.answer["label"] if isinstance(item, Answered) else item.status for item in results]


def test_what_is_computed_for_nobody_keeps_its_model_busy() -> None:
    async def body(bench: Bench) -> None:
        ticket = await bench.busy()
        bench.batcher.cancel(ticket)
        assert bench.batcher.computes(ticket.model)
        bench.gate.opened.set()
        while bench.batcher.computes(ticket.model):
            await asyncio.sleep(0.01)

    with_bench(body)


def test_a_lone_request_starts_at_once() -> None:
    async def body(bench: Bench) -> None:
        ticket = await bench.busy()
        bench.gate.opened.set()
        assert labels(await ticket.future) == ["first"]

    assert with_bench(body).batches == [["first"]]


def test_requests_that_arrive_together_share_a_batch() -> None:
    async def body(bench: Bench) -> None:
        bench.gate.opened.set()
        await asyncio.gather(*(bench.submit(text).future for text in "abc"))

    assert with_bench(body).batches == [["a", "b", "c"]]


def test_what_waits_becomes_one_batch_in_order() -> None:
    async def body(bench: Bench) -> None:
        first = await bench.busy()
        tickets = [bench.submit(text) for text in "abcde"]
        bench.gate.opened.set()
        assert [labels(await ticket.future) for ticket in (first, *tickets)] == [["first"], *([c] for c in "abcde")]

    assert with_bench(body, batch=4).batches == [["first"], list("abcd"), ["e"]]


def test_runners_share_what_waits() -> None:
    async def body(bench: Bench) -> None:
        busy = [bench.submit("x"), bench.submit("y")]
        for _ in busy:
            await asyncio.to_thread(bench.gate.started.acquire)
        tickets = [bench.submit(text) for text in "abcdefgh"]
        bench.gate.opened.set()
        await asyncio.gather(*(ticket.future for ticket in (*busy, *tickets)))

    batches = with_bench(body, runners=2).batches
    assert sorted(text for batch in batches for text in batch) == sorted("xyabcdefgh")
    assert max(map(len, batches)) <= 5  # of the nine rows that are in the server when the first runner is free


def test_a_lone_row_of_a_quick_model_is_computed_at_once() -> None:
    async def body(bench: Bench) -> None:
        bench.gate.opened.set()
        assert [bench.at_once("a"), bench.at_once("a")] == [[], []]  # how quick the model is, is not known yet
        bench.batcher.paces[0] = 0.001
        assert [bench.at_once("a"), bench.at_once("bad")] == [["a"], [422]]
        assert bench.board.scalar("failed_inputs") == 1
        assert [bench.at_once("a" * 201), bench.at_once("a", "b")] == [[], []]
        bench.gate.task.length_is_work = False
        assert bench.at_once("a") == []
        bench.gate.task.length_is_work = True
        bench.batcher.paces[0] = 0.1
        assert bench.at_once("a") == []

    assert with_bench(body).batches == [["a"], ["bad"]]


def test_clients_that_take_turns_leave_the_work_to_the_runners() -> None:
    async def body(bench: Bench) -> None:
        bench.gate.opened.set()
        bench.batcher.paces[0] = 0.001
        assert [bench.at_once("a", client=client) for client in "112112"] == [[], ["a"], [], [], ["a"], []]
        assert [bench.at_once("a", client=None) for _ in range(2)] == [[], []]

    with_bench(body)


def test_a_quick_model_does_not_make_another_one_quick() -> None:
    async def body(bench: Bench) -> None:
        bench.gate.opened.set()
        slow = Gate(opened=bench.gate.opened)
        await asyncio.gather(bench.submit("a").future, bench.submit("b", gate=slow).future)
        while bench.batcher.computing:  # the runner is a moment later than the answer
            await asyncio.sleep(0.001)
        bench.batcher.paces.update({0: 0.001, 1: 0.1})
        assert [bench.at_once("a"), bench.at_once("a"), bench.at_once("b", gate=slow)] == [[], ["a"], []]

    with_bench(body)


def test_nothing_is_computed_at_once_beside_others() -> None:
    async def body(bench: Bench) -> None:
        bench.batcher.paces[0] = 0.001
        first = await bench.busy()
        assert [bench.at_once("a"), bench.at_once("a")] == [[], []]
        waiting = bench.submit("b")
        assert bench.at_once("a") == []
        bench.gate.opened.set()
        await asyncio.gather(first.future, waiting.future)

    assert with_bench(body).batches == [["first"], ["b"]]


def test_rows_of_like_length_and_equal_top_go_together() -> None:
    async def body(bench: Bench) -> None:
        await bench.busy()
        texts = ["a", "b" * 500, "c", "d" * 500]
        tickets = [bench.submit(text) for text in texts] + [bench.submit("e", top=1)]
        bench.gate.opened.set()
        assert [labels(await ticket.future) for ticket in tickets] == [[text] for text in (*texts, "e")]

    assert with_bench(body).batches == [["first"], ["a", "c"], ["b" * 500, "d" * 500], ["e"]]


def test_long_rows_make_small_batches() -> None:
    async def body(bench: Bench) -> None:
        await bench.busy()
        tickets = [bench.submit(text * 400) for text in "abc"]
        bench.gate.opened.set()
        await asyncio.gather(*(ticket.future for ticket in tickets))

    assert [len(batch) for batch in with_bench(body, batch_size=1000).batches] == [1, 2, 1]


def test_models_are_not_mixed() -> None:
    async def body(bench: Bench) -> None:
        await bench.busy()
        other = Gate(opened=bench.gate.opened)
        tickets = [bench.submit("a"), bench.submit("b", gate=other), bench.submit("c")]
        bench.gate.opened.set()
        await asyncio.gather(*(ticket.future for ticket in tickets))
        assert other.batches == [["b"]]

    assert with_bench(body).batches == [["first"], ["a", "c"]]


def test_a_full_queue_refuses_at_once() -> None:
    async def body(bench: Bench) -> None:
        await bench.busy()
        waiting = [bench.submit("a"), bench.submit("b")]
        with pytest.raises(HttpError) as caught:
            bench.submit("c")
        assert caught.value.status == 503
        assert dict(caught.value.headers)[b"retry-after"] == b"1"
        assert bench.board.scalar("rejected") == 1
        bench.gate.opened.set()
        await asyncio.gather(*(ticket.future for ticket in waiting))

    with_bench(body, queue=2)


def test_a_slow_queue_refuses_what_would_come_too_late() -> None:
    async def body(bench: Bench) -> None:
        await bench.busy()
        waiting = [bench.submit("a"), bench.submit("b")]
        bench.batcher.seconds_per_row = 7.0
        with pytest.raises(HttpError) as caught:
            bench.submit("c")
        assert caught.value.status == 503
        assert dict(caught.value.headers)[b"retry-after"] == b"14"
        bench.gate.opened.set()
        await asyncio.gather(*(ticket.future for ticket in waiting))

    with_bench(body, answer_seconds=10)


@pytest.mark.parametrize("waiting", [0, 1, 2])
def test_a_list_is_refused_no_sooner_than_a_lone_row(waiting: int) -> None:
    """It may be longer than the queue, and something may wait already: what counts is whether there is room at all."""

    async def body(bench: Bench) -> None:
        tickets = [await bench.busy(), *(bench.submit("before") for _ in range(waiting))]
        tickets.append(bench.submit(*"abcdef"))
        for texts in ("g", "gh"):
            with pytest.raises(HttpError, match="503"):
                bench.submit(*texts)
        bench.gate.opened.set()
        results = [labels(await ticket.future) for ticket in tickets]
        assert results == [["first"], *([["before"]] * waiting), list("abcdef")]
        assert labels(await bench.submit("g").future) == ["g"]

    with_bench(body, queue=3)


def test_heat_maps_wait_until_no_other_row_does() -> None:
    async def body(bench: Bench) -> None:
        tickets = [await bench.busy(), bench.submit("map 1", "map 2"), bench.submit("a"), bench.submit("map 3", "b")]
        assert bench.batcher.depth == 5
        bench.gate.opened.set()
        assert labels(await tickets[3].future) == ["map 3", "b"]
        await asyncio.gather(*(ticket.future for ticket in tickets))

    assert with_bench(body).batches == [["first"], ["a", "b"], ["map 1"], ["map 2"], ["map 3"]]


def test_only_so_many_heat_maps_wait_and_a_plain_row_still_gets_in() -> None:
    async def body(bench: Bench) -> None:
        tickets = [await bench.busy(), bench.submit("map 1"), bench.submit("map 2", "map 3")]
        bench.batcher.seconds_per_map = 2.0
        for texts in (["map 4"], ["plain", "map 5"]):
            with pytest.raises(HttpError) as caught:
                bench.submit(*texts)
            assert (caught.value.status, dict(caught.value.headers)[b"retry-after"]) == (503, b"6")
        tickets.append(bench.submit("plain"))
        bench.batcher.cancel(tickets.pop(1))
        bench.batcher.seconds_per_map = 6.0  # of two that wait, so the third would come too late
        with pytest.raises(HttpError, match="503"):
            bench.submit("map 6")
        bench.gate.opened.set()
        await asyncio.gather(*(ticket.future for ticket in tickets))
        assert 0 < bench.batcher.seconds_per_map < 6.0
        assert labels(await bench.submit("map 7").future) == ["map 7"]

    assert with_bench(body, explaining=3).batches == [["first"], ["plain"], ["map 2"], ["map 3"], ["map 7"]]


def test_heat_maps_leave_one_runner_to_the_other_rows() -> None:
    async def body(bench: Bench) -> None:
        maps = [bench.submit(f"map {i}") for i in range(4)]
        for _ in range(2):
            await asyncio.to_thread(bench.gate.started.acquire)
        plain = bench.submit("plain")
        await asyncio.to_thread(bench.gate.started.acquire)
        assert sorted(bench.gate.batches) == [["map 0"], ["map 1"], ["plain"]]
        bench.gate.opened.set()
        await asyncio.gather(*(ticket.future for ticket in (*maps, plain)))

    with_bench(body, runners=3)


def test_a_cancelled_request_leaves_the_queue() -> None:
    async def body(bench: Bench) -> None:
        first = await bench.busy()
        gone, kept = bench.submit("gone", "gone too"), bench.submit("kept")
        bench.batcher.cancel(gone)
        assert bench.batcher.depth == 1
        bench.batcher.cancel(first)  # it is being computed: it finishes, and nobody minds
        bench.gate.opened.set()
        assert labels(await kept.future) == ["kept"]
        assert bench.board.scalar("cancelled") == 2

    assert with_bench(body).batches == [["first"], ["kept"]]


def test_a_request_that_takes_too_long_gets_504_and_leaves() -> None:
    async def body(bench: Bench) -> None:
        first = await bench.busy()
        late = bench.submit("late")
        for ticket in (first, late):
            with pytest.raises(HttpError) as caught:
                await ticket.future
            assert caught.value.status == 504
        assert bench.batcher.depth == 0
        assert bench.board.scalar("expired") == 2

    assert with_bench(body, answer_seconds=0.05).batches == [["first"]]


@pytest.mark.parametrize(
    ("texts", "bad"),
    [
        ("a b c bad e f g h", {"bad": 422}),
        ("data", {"data": 422}),
        ("a panic c", {"panic": 422}),
        ("nan b nan d", {"nan": 422}),
        ("memory b", {"memory": 503}),
        ("bad bad bad bad", {"bad": 422}),
        (" ".join(["ok"] * 31 + ["bad"]), {"bad": 422}),
    ],
)
def test_only_the_culprits_fail(texts: str, bad: dict[str, int]) -> None:
    async def body(bench: Bench) -> None:
        await bench.busy()
        tickets = [bench.submit(text) for text in texts.split()]
        bench.gate.opened.set()
        results = [labels(await ticket.future) for ticket in tickets]
        assert results == [[bad.get(text, text)] for text in texts.split()]
        assert bench.board.scalar("failed_inputs") == sum(text in bad for text in texts.split())

    with_bench(body, batch=32)


def test_limits_refuse_nonsense() -> None:
    from budwood.core.errors import UsageError

    for name in ("queue", "batch", "answer_seconds"):
        with pytest.raises(UsageError, match=name):
            Limits(**{name: 0})
