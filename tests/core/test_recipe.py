"""Recipes: formats are checked before any work, finished prefixes are reused, damaged ones are made again."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, final

import pytest
import tiny

from budwood.core import registry
from budwood.core.bundle import FORMATS, Bundle, digest
from budwood.core.errors import BundleError, NotFoundError, StepError, UsageError
from budwood.core.recipe import Recipe, key_after
from budwood.core.step import Context, Step

RAN: list[str] = []


def write(folder: Path, formats: frozenset[str], text: str) -> None:
    (folder / "onnx").mkdir()
    tensors = tiny.weights(4, 2)
    from safetensors.numpy import save

    for name in formats:
        (folder / FORMATS[name]).write_bytes(save(tensors) if name == "torch" else tiny.graph(tensors))
    (folder / "README.md").write_text(text)


@final
@dataclass(frozen=True)
class Export(Step):
    note: str = "a"
    names: tuple[str, ...] = ()
    limit: float | None = None
    file: str = ""

    name: ClassVar[str] = "export.fake"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"torch", "onnx"})

    def inputs(self) -> str:
        return Path(self.file).read_text() if self.file else ""

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        RAN.append(f"export {self.note}")
        draft = parent.draft(self.name, self.parameters())
        return Bundle.create(context.out, draft, lambda folder: write(folder, self.gives, self.note))


@final
@dataclass(frozen=True)
class Quantize(Step):
    bits: int = 8
    fail: bool = False

    name: ClassVar[str] = "shrink.fake"
    takes: ClassVar[frozenset[str]] = frozenset({"onnx"})
    gives: ClassVar[frozenset[str]] = frozenset({"onnx-int8"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        if self.fail:
            raise StepError("it did not work")
        RAN.append(f"quantize {self.bits}")
        context.work.mkdir(parents=True)
        draft = parent.draft(self.name, self.parameters())
        return Bundle.create(context.out, draft, lambda folder: write(folder, self.gives, str(self.bits)))


@dataclass(frozen=True)
class Wrong(Step):
    """A step with a bug: it forgets its parent, or its format."""

    orphan: bool = True

    name: ClassVar[str] = "shrink.wrong"
    takes: ClassVar[frozenset[str]] = frozenset({"torch"})
    gives: ClassVar[frozenset[str]] = frozenset({"onnx"})

    def apply(self, parent: Bundle, context: Context) -> Bundle:
        draft = tiny.draft() if self.orphan else parent.draft(self.name)
        return Bundle.create(context.out, draft, lambda folder: write(folder, frozenset(), "x"))


@dataclass
class Listener:
    notes: list[str] = field(default_factory=list)

    def __call__(self, what: str, done: int, total: int, note: str) -> None:
        self.notes.append(f"{what} {note}".strip())


@pytest.fixture
def parent(tmp_path: Path) -> Bundle:
    RAN.clear()
    return Bundle.create(tmp_path / "parent", tiny.draft(), lambda folder: write(folder, frozenset({"torch"}), "p"))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path / "unused", tmp_path / "work", tiny.splits(), progress=Listener())


def test_steps_run_in_order_and_name_their_parents(parent: Bundle, context: Context, tmp_path: Path) -> None:
    result = Recipe((Export(), Quantize())).run(parent, context, tmp_path / "cache")
    assert RAN == ["export a", "quantize 8"]
    assert result.formats == {"onnx-int8"}
    assert [step.name for step in result.manifest.history] == ["adapt.head", "export.fake", "shrink.fake"]
    assert result.path.parent == tmp_path / "cache"
    assert Bundle.open(result.path).id == result.id
    assert not context.out.exists()


def test_formats_are_checked_before_any_work(parent: Bundle, context: Context, tmp_path: Path) -> None:
    for steps in ((Quantize(),), (Export(), Quantize(), Quantize())):
        with pytest.raises(UsageError, match="takes onnx, but") as caught:
            Recipe(steps).run(parent, context, tmp_path / "cache")
        assert "shrink.fake" in caught.value.where
    assert not RAN
    assert not (tmp_path / "cache").exists()


def test_finished_prefixes_are_reused(parent: Bundle, context: Context, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = Recipe((Export(), Quantize())).run(parent, context, cache)
    assert Recipe((Export(), Quantize())).run(parent, context, cache).id == first.id
    Recipe((Export(), Quantize(4))).run(parent, context, cache)
    assert RAN == ["export a", "quantize 8", "quantize 4"]


def test_a_failed_step_keeps_the_prefix(parent: Bundle, context: Context, tmp_path: Path) -> None:
    with pytest.raises(StepError):
        Recipe((Export(), Quantize(fail=True))).run(parent, context, tmp_path / "cache")
    Recipe((Export(),)).run(parent, context, tmp_path / "cache")
    assert RAN == ["export a"]


@pytest.mark.parametrize("change", ["parameter", "seed", "rows", "parent", "seconds"])
def test_what_makes_a_result_another(parent: Bundle, context: Context, tmp_path: Path, change: str) -> None:
    cache = tmp_path / "cache"
    Recipe((Export(),)).run(parent, context, cache)
    step, other = Export(), parent
    if change == "parameter":
        step = Export("b")
    elif change == "parent":
        other = Bundle.create(tmp_path / "other", tiny.draft(base="other"), lambda f: write(f, parent.formats, "q"))
    changes = {"seed": {"seed": 1}, "rows": {"splits": tiny.splits(3)}, "seconds": {"seconds": 5.0}}
    Recipe((step,)).run(other, replace(context, **changes.get(change, {})), cache)
    assert len(RAN) == 2


def test_a_file_that_a_step_reads_makes_a_result_another(parent: Bundle, context: Context, tmp_path: Path) -> None:
    file, cache = tmp_path / "more.txt", tmp_path / "cache"
    for content in ("one", "one", "two"):
        file.write_text(content)
        Recipe((Export(file=str(file)),)).run(parent, context, cache)
    assert len(RAN) == 2


def test_a_step_that_reads_no_more_keeps_the_key_that_it_had(context: Context) -> None:
    facts = {"rows": tiny.splits().fingerprint, "task": None, "seed": 0, "seconds": None}
    known = digest({"after": "x", "step": "shrink.fake", "parameters": {"bits": 8, "fail": False}, **facts})
    assert key_after("x", Quantize(), context) == known


@pytest.mark.parametrize("damage", ["flip", "extra", "missing", "empty"])
def test_a_damaged_result_is_said_and_made_again(parent: Bundle, context: Context, tmp_path: Path, damage: str) -> None:
    recipe, cache = Recipe((Export(), Quantize())), tmp_path / "cache"
    recipe.run(parent, context, cache)
    (exported,) = (path for path in cache.iterdir() if (path / "onnx" / "model.onnx").exists())
    graph = exported / "onnx" / "model.onnx"
    content = graph.read_bytes()
    {
        "flip": lambda: graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1])),
        "extra": lambda: (exported / "x.py").touch(),
        "missing": (exported / "bundle.json").unlink,
        "empty": lambda: graph.write_bytes(b""),
    }[damage]()
    RAN.clear()
    listener = Listener()
    result = recipe.run(parent, replace(context, progress=listener, work=tmp_path / "work2"), cache)
    assert RAN[0] == "export a"
    assert Bundle.open(result.path).parent == Bundle.open(exported).id
    assert any("made again" in note for note in listener.notes)


def test_steps_with_bugs_are_found(parent: Bundle, context: Context, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="does not name its parent"):
        Recipe((Wrong(),)).run(parent, context, tmp_path / "cache")
    with pytest.raises(StepError, match="promised onnx and gave nothing"):
        Recipe((Wrong(orphan=False),)).run(parent, context, tmp_path / "cache")


# Files


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {("steps/export", "fake"): Export, ("steps/shrink", "fake"): Quantize}

    def get(folder: str, name: str) -> type[Step]:
        if (folder, name) not in known:
            raise NotFoundError(f"no {folder} named {name!r}")
        return known[folder, name]

    monkeypatch.setattr(registry, "get", get)


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("note", ["a", 'quote " and \\', "new\nline", "ü 😀", "\x7f\x01", ""])
def test_a_recipe_file_gives_the_same_recipe(tmp_path: Path, note: str) -> None:
    recipe = Recipe((Export(note, ("x", note), 0.5), Quantize(4), Export(), Quantize(fail=True)))
    (tmp_path / "r.toml").write_text(recipe.to_toml(), encoding="utf-8")
    assert Recipe.from_toml(tmp_path / "r.toml") == recipe


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "step"),
        ("[[step", "cannot be read"),
        ("step = 1", "step"),
        ("other = 1\n[[step]]\nname = 'export.fake'", "nothing else"),
        ("[[step]]", "needs a name"),
        ("[[step]]\nname = 1", "needs a name"),
        ("[[step]]\nname = 'fake'", "needs a name"),
        ("[[step]]\nname = '../../os.fake'", "needs a name"),
        ("[[step]]\nname = 'os.path'", "no steps in 'os'"),
        ("[[step]]\nname = 'export.fake'\nnot = 'b'", "no parameter 'not'"),
        ("[[step]]\nname = 'export.fake'\nnote = 1", "note"),
        ("[[step]]\nname = 'shrink.fake'\nbits = '8'", "bits"),
        ("[[step]]\nname = 'shrink.fake'\nbits = 8.5", "bits"),
        ("[[step]]\nname = 'shrink.fake'\nfail = 1", "fail"),
        ("[[step]]\nname = 'shrink.fake'\nbits = 2024-01-01", "shrink.fake"),
    ],
)
def test_recipe_files_that_are_off(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UsageError, match=match) as caught:
        Recipe.from_toml(tmp_path / "r.toml")
    assert str(tmp_path / "r.toml") in caught.value.where


@pytest.mark.usefixtures("plugins")
def test_a_slip_gets_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[[step]]\nname = 'shrink.fake'\nbit = 4")
    with pytest.raises(UsageError) as caught:
        Recipe.from_toml(tmp_path / "r.toml")
    assert caught.value.fix == "did you mean bits?"
    assert caught.value.where.endswith("step 1")


def test_a_recipe_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Recipe.from_toml(tmp_path / "nowhere.toml")


def test_real_steps_come_from_the_registry(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[[step]]\nname = 'adapt.nothing'")
    with pytest.raises(NotFoundError, match="nothing"):
        Recipe.from_toml(tmp_path / "r.toml")


def test_bundles_that_cannot_be_opened_are_not_parents(parent: Bundle) -> None:
    (parent.path / "x.py").touch()
    with pytest.raises(BundleError):
        Bundle.open(parent.path)
