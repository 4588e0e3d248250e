"""`--runtime auto`: who races, who is taken, what is remembered, and that a wrong runtime is never chosen."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import exported
import pytest
import tiny
import tiny_language

from budwood.core import registry
from budwood.core.bundle import Bundle
from budwood.core.errors import BundleError
from budwood.core.report import Speed
from budwood.core.runtime import Runtime
from budwood.core.task import Arrays
from budwood.engine import conformance, graft, machine, runtime_choice, runtime_race
from budwood.engine.predictor import Predictor
from budwood.engine.runtime_choice import Found, chosen, decide, judged, measure_runtimes, present, recall, remembered
from budwood.runtimes.onnxruntime import OnnxRuntime
from budwood.tasks.text_generation import TextGeneration

pytest.importorskip("onnx")
DEFAULT = "onnxruntime"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny text classifier with golden rows."""
    folder = tmp_path_factory.mktemp("golden")
    plain = tiny.bundle(folder / "plain")
    predictor = Predictor.open(plain, DEFAULT)
    items = [{"text": row["text"]} for row in tiny.rows()]
    outputs = predictor.outputs(conformance.parsed(predictor.task, {"inputs": items}))

    def write(stage: Path) -> None:
        graft.copy_files(plain, plain.names, stage)
        conformance.write(stage, items, outputs, conformance.FLOAT_TOLERANCE)

    return Bundle.create(folder / "bundle", plain.draft("export.onnx"), write)


class Twin(Runtime):
    """The same model a second time, under the name `other`."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    shift: ClassVar[float] = 0.0
    fails: ClassVar[Exception | None] = None
    tires: ClassVar[bool] = False
    """Answers the golden rows, and nothing after them."""

    def __init__(self, inner: OnnxRuntime) -> None:
        self.inner, self.answered = inner, 0

    @classmethod
    def open(cls, bundle: Bundle, threads: int) -> "Twin":
        if cls.fails is not None:
            raise cls.fails
        return cls(OnnxRuntime.open(bundle, threads))

    def run(self, inputs: Arrays) -> Arrays:
        self.answered += 1
        if self.tires and self.answered > 1:
            raise RuntimeError("out of breath")
        return {name: value + self.shift for name, value in self.inner.run(inputs).items()}

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> type[Twin]:
    """`other` is installed, and nothing else beside ONNX Runtime."""
    names, get = registry.names, registry.get
    monkeypatch.setattr(
        registry, "names", lambda folder: (DEFAULT, "other", "torch") if folder == "runtimes" else names(folder)
    )
    monkeypatch.setattr(registry, "get", lambda folder, name: Twin if name == "other" else get(folder, name))
    monkeypatch.setattr(Twin, "shift", 0.0)
    monkeypatch.setattr(Twin, "fails", None)
    monkeypatch.setattr(Twin, "tires", False)
    return Twin


def speed(ratio: float, ci: tuple[float, float], noise: float = 0.02, batch: float = 1.0) -> Speed:
    span = (batch * 0.99, batch * 1.01)
    return Speed(1.0, 2.0, 10.0, 0.0, None, None, 50, ratio, ci, batch, span, noise, 0.02, 1, 16)


@pytest.mark.parametrize(
    ("measured", "taken"),
    [
        (speed(1.5, (1.4, 1.6)), True),
        (speed(1.5, (1.4, 1.6), noise=0.6), False),
        (speed(1.04, (1.03, 1.05)), False),
        (speed(1.2, (0.9, 1.5)), False),
        (speed(0.7, (0.6, 0.8)), False),
        (speed(1.5, (1.4, 1.6), batch=0.7), False),
    ],
)
def test_the_default_stays_unless_another_is_clearly_faster(measured: Speed, taken: bool) -> None:
    found = {DEFAULT: judged(DEFAULT, speed(1.0, (1.0, 1.0)), DEFAULT), "other": judged("other", measured, DEFAULT)}
    assert chosen(found, DEFAULT) == ("other" if taken else DEFAULT)
    assert found[DEFAULT].why == ""
    assert bool(found["other"].why) is not taken


def test_all_that_are_there_race_and_it_is_remembered(bundle: Bundle, other: type[Twin], tmp_path: Path) -> None:
    assert present(bundle) == (DEFAULT, "other")
    assert remembered(bundle) == DEFAULT
    found = measure_runtimes(bundle, seconds=0.1)
    assert list(found) == [DEFAULT, "other"]
    assert all(item.ok and item.p50_ms and item.ratio_ci for item in found.values())
    assert found[DEFAULT].ratio == 1.0
    assert recall(bundle) == found
    elsewhere = bundle.copy(tmp_path / "copy")
    assert recall(elsewhere) == found, "a copy is the same model"
    (file,) = (Path(os.environ["XDG_CACHE_HOME"]) / "budwood" / "runtimes").iterdir()
    content = json.loads(file.read_text())
    content["other"] |= {"ratio": 1.4, "why": ""}
    file.write_text(json.dumps(content))
    assert remembered(bundle) == "other"


def test_another_machine_or_version_is_measured_anew(bundle: Bundle, other: type[Twin], monkeypatch) -> None:
    measure_runtimes(bundle, seconds=0.0)
    assert recall(bundle) is not None
    for name, value in (("instruction_set", lambda: "arm"), ("usable_cores", lambda: 99), ("installed", lambda _: "9")):
        with monkeypatch.context() as patch:
            patch.setattr(runtime_choice, name, value)
            assert recall(bundle) is None
    monkeypatch.setenv("BUDWOOD_PROVIDERS", "cpu")
    assert recall(bundle) is None


def test_a_runtime_that_misses_the_golden_rows_is_never_chosen_however_fast(bundle: Bundle, other, monkeypatch) -> None:
    monkeypatch.setattr(other, "shift", 0.5)
    monkeypatch.setattr(runtime_race, "race", lambda *_: pytest.fail("nobody is left to race with"))
    found = measure_runtimes(bundle, seconds=0.0)
    assert (found["other"].ok, found[DEFAULT].ok) == (False, True)
    assert "golden rows differ by 0.5" in found["other"].why
    assert remembered(bundle) == DEFAULT


@pytest.mark.parametrize("error", [BundleError("no such operator"), RuntimeError("segment"), MemoryError()])
def test_a_runtime_that_cannot_open_it_is_left_out_with_the_reason(bundle: Bundle, other, monkeypatch, error) -> None:
    monkeypatch.setattr(other, "fails", error)
    found = measure_runtimes(bundle, seconds=0.0)
    assert not found["other"].ok
    assert (str(error).split(":")[0] or "MemoryError") in found["other"].why
    assert decide(bundle) == DEFAULT


def test_without_golden_rows_there_is_only_the_default(tiny_bundle: Bundle, other: type[Twin]) -> None:
    found = measure_runtimes(tiny_bundle, seconds=0.0)
    assert found[DEFAULT].ok
    assert "no golden rows" in found["other"].why


def test_one_runtime_is_not_measured(bundle: Bundle, monkeypatch) -> None:
    names = registry.names
    monkeypatch.setattr(registry, "names", lambda folder: (DEFAULT, "null") if folder == "runtimes" else names(folder))
    monkeypatch.setattr(runtime_choice, "in_a_child", lambda *_: pytest.fail("there is nothing to measure"))
    lines: list[str] = []
    assert decide(bundle, progress=lambda *fields: lines.append(fields[-1])) == DEFAULT
    assert not lines
    assert not [*Path(os.environ["XDG_CACHE_HOME"]).iterdir()]


def test_a_damaged_memory_is_measured_anew_and_told(bundle: Bundle, other, monkeypatch) -> None:
    found = measure_runtimes(bundle, seconds=0.0)
    asked: list[Bundle] = []

    def in_a_child(bundle: Bundle, seconds: float, threads: int) -> dict[str, Found]:
        asked.append(bundle)
        return dict(found)

    monkeypatch.setattr(runtime_choice, "in_a_child", in_a_child)
    path = runtime_choice.place(bundle)
    for content in (b"", b"{", b"[]", b'{"onnxruntime": 3}', b'{"onnxruntime": {"runtime": "x"}}', b"\xff\xfe", b"{}"):
        path.write_bytes(content)
        assert remembered(bundle) == DEFAULT
        lines: list[str] = []
        decide(bundle, progress=lambda *fields, lines=lines: lines.append(fields[-1]))
        assert "damaged, so it was measured anew" in lines[-1]
    assert len(asked) == 7


def test_concurrent_writers_never_leave_half_a_file(bundle: Bundle, other: type[Twin]) -> None:
    found = {name: Found(name, ok=True, why="x" * 5000) for name in (DEFAULT, "other")}

    def work(turn: int) -> bool:
        if turn % 2:
            runtime_choice.remember(bundle, found)
            return True
        return recall(bundle) in (None, found)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(60)))


def test_a_disk_that_cannot_be_written_does_not_stop_it(bundle: Bundle, other, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert measure_runtimes(bundle, seconds=0.0)[DEFAULT].ok
    assert remembered(bundle) == DEFAULT


def test_it_is_measured_in_a_process_of_its_own_and_a_crash_there_is_a_reason(bundle: Bundle, monkeypatch) -> None:
    pytest.importorskip("openvino")
    lines: list[str] = []
    decide(bundle, seconds=0.1, progress=lambda *fields: lines.append(fields[-1]))
    assert "measuring onnxruntime and openvino, once" in lines[0]
    found = recall(bundle)
    assert found is not None
    assert found["openvino"].ok
    lines.clear()
    decide(bundle, progress=lambda *fields: lines.append(fields[-1]))
    assert len(lines) == 1, "the second time nothing is measured"
    monkeypatch.setattr(sys, "executable", shutil.which("false") or "/bin/false")
    runtime_choice.place(bundle).unlink()
    failed = runtime_choice.in_a_child(bundle, 0.1, 1)
    assert failed[DEFAULT].ok
    assert "measuring failed" in failed["openvino"].why
    lines.clear()
    decide(bundle, progress=lambda *fields: lines.append(fields[-1]))
    assert len(lines) == 1, "a failure is not paid for again"
    assert f"remove {runtime_choice.place(bundle)}" in lines[0]


def test_looking_up_imports_no_runtime_and_no_statistics(bundle: Bundle, tmp_path: Path) -> None:
    code = (
        "import sys; from budwood.core.bundle import Bundle; from budwood.engine.runtime_choice import remembered; "
        f"remembered(Bundle.open({str(bundle.path)!r})); "
        "print({'onnxruntime', 'openvino', 'torch', 'scipy', 'budwood.engine.statistics'} & {*sys.modules})"
    )
    paths = {"PYTHONPATH": str(Path(machine.__file__).parents[2]), "XDG_CACHE_HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_a_writer_is_measured_writing(tmp_path: Path, other, monkeypatch) -> None:
    pytest.importorskip("torch")
    bundle = exported.writer(tmp_path)
    seen: list[Any] = []
    race: Callable[..., Any] = runtime_race.race

    def watched(*arguments: Any) -> Any:
        seen.extend(arguments[2])
        return race(*arguments)

    monkeypatch.setattr(runtime_race, "race", watched)
    found = measure_runtimes(bundle, seconds=0.0)
    assert all(item.ok for item in found.values())
    assert all(row["options"].max_tokens > 0 for row in seen)
    assert all(any(text.startswith(row["text"]) for text in tiny_language.CORPUS) for row in seen)


@pytest.mark.parametrize("kind", ["completions", "chats"])
def test_a_writer_of_answers_has_rows_to_race_on(kind: str, tiny_bundle: Bundle) -> None:
    task = TextGeneration(kind)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = {"completions": {"text": "", "prompt": "Hi", "completion": " Hello"}, "chats": {"messages": turns}}
    predictor: Any = SimpleNamespace(task=task)
    (row,) = runtime_race.sample(predictor, tiny_bundle, [task.parse(rows[kind] | {"measure": True})])
    assert row["text" if kind == "completions" else "messages"] in ("Hi", turns[:1])
    assert row["options"].max_tokens > 0


def test_a_runtime_that_fails_in_the_race_is_out_and_the_default_stays(bundle: Bundle, other, monkeypatch) -> None:
    monkeypatch.setattr(other, "tires", True)
    found = measure_runtimes(bundle, seconds=0.0)
    assert (found[DEFAULT].ok, found["other"].ok) == (True, False)
    assert found["other"].why == "RuntimeError: out of breath"
    assert remembered(bundle) == DEFAULT


def test_a_default_that_fails_in_the_race_stays_because_nothing_is_known_of_the_other(bundle, other) -> None:
    found = measure_runtimes(bundle, [{"text": 3}], seconds=0.0)
    assert not found[DEFAULT].ok
    assert "not raced: onnxruntime failed" in found["other"].why
    assert chosen(found, DEFAULT) == DEFAULT


def test_rows_that_cannot_be_drawn_are_a_reason_and_stop_nothing(bundle: Bundle, other, monkeypatch) -> None:
    monkeypatch.setattr(runtime_race, "sample", lambda *_: [])
    found = measure_runtimes(bundle, seconds=0.0)
    assert found[DEFAULT].ok
    assert found["other"].why == "not raced: there are no rows to measure with"


@pytest.mark.parametrize(
    "entry",
    [
        {"runtime": "null"},
        {"ok": 1},
        {"why": None},
        {"ratio": "2"},
        {"ratio": float("nan")},
        {"ratio": True},
        {"ratio_ci": [1.0]},
        {"ratio_ci": [1.0, "2"]},
        {"p50_ms": []},
        {"else": 1},
    ],
)
def test_what_is_remembered_is_checked_before_it_is_believed(bundle: Bundle, other, entry: dict[str, Any]) -> None:
    better = Found("other", ok=True, ratio=2.0, ratio_ci=(1.9, 2.1))
    runtime_choice.remember(bundle, {DEFAULT: Found(DEFAULT, ok=True), "other": better})
    assert remembered(bundle) == "other"
    path = runtime_choice.place(bundle)
    content = json.loads(path.read_text())
    content["other"] |= entry
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="damaged"):
        recall(bundle)
    assert remembered(bundle) == DEFAULT


def test_what_was_measured_with_more_threads_is_not_taken_for_a_worker_with_one(bundle: Bundle, other) -> None:
    measure_runtimes(bundle, seconds=0.0, threads=2)
    assert recall(bundle) is None
    assert recall(bundle, 2) is not None
