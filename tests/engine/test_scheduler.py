"""Texts that are written side by side: each as if it were alone, whoever comes and goes, and none waits for long."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import tiny_language  # noqa: E402

from budwood.engine import decoder_rows, scheduler  # noqa: E402
from budwood.engine.causal_graph import export_causal_graph  # noqa: E402
from budwood.engine.decoding import Piece, Sampling  # noqa: E402
from budwood.engine.generator import Decoder, Generator, Prompt  # noqa: E402
from budwood.engine.scheduler import Room, Scheduler, Work  # noqa: E402
from budwood.engine.vocabulary import Vocabulary  # noqa: E402
from budwood.runtimes.onnxruntime import OnnxRuntime  # noqa: E402

STORY = "In the night the wind sang. Nobody heard the wind but the cat, and the cat told nobody. "
PROMPTS = ("Once upon a time", "The", STORY, STORY + "The old man", "", "A girl found a key in the garden")
OPTIONS = (
    Sampling(max_tokens=12, temperature=0.0),
    Sampling(max_tokens=70, min_tokens=70, temperature=1.0, seed=3),
    Sampling(max_tokens=25, temperature=0.8, top_p=0.9, seed=5),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("language")
    gpt2 = tiny_language.gpt2(root / "gpt2")
    return {"gpt2": gpt2, "llama": tiny_language.llama(root / "llama", gpt2)}


@pytest.fixture(scope="module")
def generators(folders: dict[str, Path]) -> dict[tuple[str, str], Generator]:
    """The same models with rows that are written in place, and with rows that are copied."""
    found = {}
    for name, folder in folders.items():
        graph = folder.with_suffix(".onnx")
        export_causal_graph(folder, graph)
        runtime, vocabulary = OnnxRuntime(graph.read_bytes(), 1), Vocabulary.open(folder)
        shared = Decoder.of(runtime, folder)
        assert shared.in_place is not None
        found[name, "shared"] = Generator(shared, vocabulary)
        found[name, "copied"] = Generator(replace(shared, in_place=None), vocabulary)
    return found


KINDS = [(name, rows) for name in ("gpt2", "llama") for rows in ("shared", "copied")]


class Desk:
    """What a caller does with a scheduler."""

    def __init__(self, generator: Generator, room: Room) -> None:
        self.generator, self.room = generator, room
        self.scheduler: Scheduler = generator.scheduler(room)
        self.texts: dict[Work, list[str]] = {}
        self.finished: list[Work] = []

    def ask(self, prompt: Prompt, options: Sampling, n: int = 1, **more: object) -> Work:
        writers = self.generator.writers([prompt], [self.generator.encode(prompt)], [options], n)
        work = Work(writers, lambda piece: self.emit(work, piece), **more)  # type: ignore[arg-type]
        self.texts[work] = [""] * n
        self.scheduler.add(work)
        return work

    def emit(self, work: Work, piece: Piece) -> None:
        self.texts[work][piece.index] += piece.text
        if piece.finish and all(writer.finish for writer in work.writers):
            self.finished.append(work)

    def run(self) -> None:
        while self.scheduler.busy:
            self.scheduler.turn()
            rows = [*self.scheduler.retired, *(text.row for text in self.scheduler.active if text.row)]
            assert self.scheduler.held == sum(len(row.ids) for row in rows)
            assert len(rows) <= self.room.rows
            assert len(self.scheduler.active) <= self.room.texts


def counted(monkeypatch: pytest.MonkeyPatch, desk: Desk) -> list[int]:
    """The sizes of the parts of prompts that are read from now on."""
    sizes: list[int] = []
    read = desk.scheduler.rows.read

    def noted(row: decoder_rows.Row, ids: Sequence[int]) -> object:
        sizes.append(len(ids))
        return read(row, ids)

    monkeypatch.setattr(desk.scheduler.rows, "read", noted)
    return sizes


ROOMS = {
    "plenty": Room(32, 64),
    "no row to spare": Room(32, 32),
    "few places": Room(3, 5),
    "one place": Room(1, 1),
    "little memory": Room(8, 16, 250),
}


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_text_is_the_same_alone_and_in_a_crowd_that_comes_and_goes(
    kind: tuple[str, str], room: str, generators: dict[tuple[str, str], Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "QUANTUM", 7)
    monkeypatch.setattr(scheduler, "PROMPT_TOKENS", 5)
    monkeypatch.setattr(decoder_rows, "CAPACITY", 16)
    generator = generators[kind]
    desk = Desk(generator, ROOMS[room])
    asked = []
    for at in range(12):  # the second half repeats the first: its prompts are in memory by then
        prompt, options = PROMPTS[at % len(PROMPTS)], OPTIONS[at % len(OPTIONS)]
        asked.append((desk.ask(prompt, options, n=1 + at % 2), prompt, options))
        if at % 4 == 3:
            desk.ask("Nobody", OPTIONS[1], cancelled=iter([False] * at + [True] * 99).__next__)
        for _ in range(at):
            desk.scheduler.turn()
    desk.run()
    for work, prompt, options in asked:
        alone = generator.complete([prompt], options, n=len(work.writers))
        assert desk.texts[work] == [item.text for item in alone]
        assert work.tokens == sum(item.tokens for item in alone)


@pytest.mark.parametrize("rows", ["shared", "copied"])
def test_a_long_prompt_stalls_nobody(
    rows: str, generators: dict[tuple[str, str], Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "PROMPT_TOKENS", 8)
    desk = Desk(generators["gpt2", rows], ROOMS["plenty"])
    writing = desk.ask("The", OPTIONS[1])
    desk.scheduler.turn()
    sizes = counted(monkeypatch, desk)
    long = desk.ask(STORY * 4, OPTIONS[0])
    short = desk.ask("Once", OPTIONS[0])
    while not long.tokens:
        before = writing.tokens
        desk.scheduler.turn()
        assert writing.tokens == before + 1
    assert len(sizes) > 4
    assert max(sizes) <= 8
    assert short.tokens > 1  # it went before what came earlier and is longer


def test_many_short_prompts_do_not_keep_a_long_one_from_being_read(
    generators: dict[tuple[str, str], Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "PROMPT_TOKENS", 8)
    monkeypatch.setattr(scheduler, "PATIENCE", 8)
    desk = Desk(generators["gpt2", "shared"], ROOMS["plenty"])
    desk.ask("The", OPTIONS[1])
    desk.scheduler.turn()
    long = desk.ask(STORY * 2, OPTIONS[0])
    for turn in range(60):
        desk.ask(f"{turn} birds and {turn} cats", replace(OPTIONS[0], max_tokens=1))
        desk.scheduler.turn()
    assert long.tokens


def test_places_go_to_those_who_have_the_fewest(generators: dict[tuple[str, str], Generator]) -> None:
    desk = Desk(generators["gpt2", "shared"], Room(2, 4))
    huge = desk.ask("The", OPTIONS[2], n=20, owner="a")
    small = desk.ask("Once", OPTIONS[0], owner="a")
    other = desk.ask("A girl", OPTIONS[0], owner="b")
    desk.run()
    assert desk.finished[:2] == [other, small] or desk.finished[:2] == [small, other]
    assert desk.finished[2] is huge


def test_a_text_that_waits_gets_the_place_of_one_that_has_written_for_long(
    generators: dict[tuple[str, str], Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "QUANTUM", 10)
    desk = Desk(generators["gpt2", "shared"], Room(1, 3))
    long = desk.ask("The", OPTIONS[1])
    short = desk.ask("Once", OPTIONS[0])
    sizes = counted(monkeypatch, desk)
    desk.run()
    assert desk.finished == [short, long]
    assert sizes.count(1) >= 1  # the long one came back to its own row, and read its last token only


def test_who_leaves_frees_the_place_before_the_next_step(generators: dict[tuple[str, str], Generator]) -> None:
    desk = Desk(generators["gpt2", "shared"], Room(1, 2))
    left = False
    first = desk.ask("The", OPTIONS[1], cancelled=lambda: left)
    second = desk.ask("Once", OPTIONS[0])
    for _ in range(3):
        desk.scheduler.turn()
    assert (first.tokens, second.tokens) == (3, 0)
    left = True
    desk.scheduler.turn()
    assert (first.tokens, second.tokens) == (3, 1)
    assert first.writers[0].finish == "cancelled"


def test_samples_share_the_reading_of_their_prompt(
    generators: dict[tuple[str, str], Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generators["gpt2", "shared"]
    desk = Desk(generator, ROOMS["plenty"])
    sizes = counted(monkeypatch, desk)
    desk.ask(STORY, OPTIONS[2], n=8)
    desk.run()
    assert sum(sizes) == len(generator.encode(STORY))


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_what_a_game_repeats_is_not_read_again(
    kind: tuple[str, str], generators: dict[tuple[str, str], Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generators[kind]
    desk = Desk(generator, ROOMS["plenty"])
    # As token ids: the texts of a model that has learnt nothing need not give the same ids again.
    history, options = generator.encode("Once upon a time"), replace(OPTIONS[2], max_tokens=20, min_tokens=20)
    for turn in range(3):
        sizes = counted(monkeypatch, desk)
        work = desk.ask(history, options)
        desk.run()
        (alone,) = generator.complete([history], options)
        assert desk.texts[work] == [alone.text]
        if turn and kind[0] == "gpt2":  # the window of the llama is too short for all turns
            assert sum(sizes) < 20
        history = [*work.writers[0].ids, *generator.encode(" The old man came.")[1:]]


def test_nobody_can_tell_by_the_time_what_another_has_asked(
    generators: dict[tuple[str, str], Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(generators["gpt2", "shared"], ROOMS["plenty"])
    sizes = counted(monkeypatch, desk)
    for owner in ("a", "b", "a"):
        desk.ask(STORY, OPTIONS[0], owner=owner)
        desk.run()
    whole = len(desk.generator.encode(STORY))
    assert sizes == [whole, whole, 1]


def test_memory_is_kept_within_its_bound(generators: dict[tuple[str, str], Generator]) -> None:
    desk = Desk(generators["gpt2", "shared"], Room(4, 8, 120))
    for at in range(12):
        desk.ask(f"{at} cats", OPTIONS[at % 3])
    while desk.scheduler.busy:
        desk.scheduler.turn()
        assert desk.scheduler.held <= 120 + 4 or len(desk.scheduler.active) == 1


def test_prompts_that_come_together_take_no_more_memory_than_there_is(
    generators: dict[tuple[str, str], Generator],
) -> None:
    desk = Desk(generators["gpt2", "shared"], Room(8, 16, 250))
    for _ in range(2):  # the second time over what the first ones left
        works = [desk.ask(f"{at} " + STORY * 2, OPTIONS[0], owner=at) for at in range(6)]
        while desk.scheduler.busy:
            desk.scheduler.turn()
            assert desk.scheduler.held <= 250
    assert all(work.tokens for work in works)


def test_a_clock_ends_what_is_written_and_what_waits(
    generators: dict[tuple[str, str], Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: now)
    desk = Desk(generators["gpt2", "copied"], Room(1, 2))
    works = [desk.ask("The", OPTIONS[1], until=105.0) for _ in range(2)]
    for _ in range(4):
        desk.scheduler.turn()
    now = 106.0
    desk.scheduler.turn()
    assert [work.writers[0].finish for work in works] == ["deadline", "deadline"]
    assert [work.begun for work in works] == [True, False]
    assert not desk.scheduler.busy
    desk.scheduler.drop()
    assert desk.scheduler.held == 0


def test_equal_beginnings_are_counted() -> None:
    check: Callable[[list[int], list[int]], int] = scheduler.shared
    assert check([], [1]) == 0
    assert check([1, 2, 3], [1, 2]) == 2
    assert check([1, 2, 3], [1, 5, 3]) == 1
    assert check([*range(40), 7], [*range(40), 8, 9]) == 40
