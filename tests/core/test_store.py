"""The store: names, versions, aliases, and an error that helps for everything that can be off."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from budwood.core.bundle import Bundle, StepRecord
from budwood.core.errors import BudwoodError, BundleError, NotFoundError, UsageError
from budwood.core.store import NAME, Entry, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny.small_bundle(tmp_path / "cache" / "bundle")


@pytest.fixture
def three(store: Store, bundle: Bundle) -> Store:
    for _ in range(3):
        store.publish("tickets", bundle)
    return store


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Store.default() == Store(Path("models"))
    monkeypatch.setenv("BUDWOOD_STORE", str(tmp_path / "env"))
    assert Store.default() == Store(tmp_path / "env")
    assert Store.default(tmp_path / "flag") == Store(tmp_path / "flag")
    assert Store.default("~/models") == Store(Path.home() / "models")


@pytest.mark.parametrize("address", ["s3://bucket/models", "gs://x", "https://example.com/m", "file:///x"])
def test_an_address_is_not_taken_for_a_folder(address: str, store: Store) -> None:
    with pytest.raises(UsageError, match="only local folders work today"):
        Store.default(address)
    with pytest.raises(UsageError, match="only local folders work today"):
        store.resolve(address)


def test_publishing_numbers_the_versions_and_copies(store: Store, bundle: Bundle) -> None:
    entries = [store.publish("tickets", bundle) for _ in range(3)]
    assert [entry.version for entry in entries] == [1, 2, 3]
    assert store.versions("tickets") == (1, 2, 3)
    assert store.names() == ("tickets",)
    assert entries[2].bundle.path == store.root / "tickets" / "3"
    assert entries[2].bundle.id == bundle.id
    assert Bundle.open(bundle.path).id == bundle.id
    assert store.aliases("tickets") == {"live": 1}


@pytest.mark.parametrize(
    ("reference", "version"), [("tickets", 3), ("tickets:1", 1), ("tickets:3", 3), ("tickets@live", 1)]
)
def test_references(three: Store, reference: str, version: int) -> None:
    entry = three.resolve(reference)
    assert (entry.name, entry.version) == ("tickets", version)
    assert entry.bundle.path == three.root / "tickets" / str(version)


def test_a_folder_is_a_reference(three: Store, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert three.resolve(str(bundle.path)) == Entry("bundle", 0, bundle)
    inside = three.resolve(str(three.root / "tickets" / "2"))
    assert (inside.name, inside.version) == ("tickets", 2)
    monkeypatch.chdir(bundle.path.parent)
    assert three.resolve("bundle").bundle.id == bundle.id
    assert three.resolve("./bundle").version == 0
    monkeypatch.chdir(three.root)
    relative = Store(Path(".")).resolve("tickets/2")
    assert (relative.name, relative.version) == ("tickets", 2)


def test_a_stored_name_wins_over_a_folder_of_that_name(
    three: Store, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.copy(tmp_path / "here" / "tickets")
    monkeypatch.chdir(tmp_path / "here")
    assert three.resolve("tickets").version == 3
    assert three.resolve("./tickets").version == 0


def test_unknown_names_get_suggestions(three: Store) -> None:
    for wrong in ("ticket", "Tickets", "tikets"):
        with pytest.raises(NotFoundError, match="no model named") as caught:
            three.resolve(wrong)
        assert caught.value.fix == "did you mean tickets?"
    with pytest.raises(NotFoundError) as caught:
        three.resolve("zzz")
    assert caught.value.fix == "budwood models list"


@pytest.mark.parametrize(
    ("reference", "error", "match"),
    [
        ("tickets:4", NotFoundError, "no version 4"),
        ("tickets:0", UsageError, "no version number"),
        ("tickets:x", UsageError, "no version number"),
        ("tickets:", UsageError, "no version number"),
        ("tickets:1/../2", NotFoundError, "no such folder"),
        ("tickets@other", NotFoundError, "no alias 'other'"),
        ("tickets@", NotFoundError, "no alias ''"),
        ("./nowhere", NotFoundError, "no such folder"),
        ("../x", NotFoundError, "no such folder"),
        ("", UsageError, "no model is named"),
        ("a\0b", UsageError, "no model is named"),
    ],
)
def test_references_that_lead_nowhere(three: Store, reference: str, error: type[BudwoodError], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        three.resolve(reference)
    assert caught.value.where


def test_the_versions_and_aliases_that_exist_are_named(three: Store) -> None:
    with pytest.raises(NotFoundError) as caught:
        three.resolve("tickets:9")
    assert caught.value.fix == "there are: 1, 2, 3"
    with pytest.raises(NotFoundError) as caught:
        three.resolve("tickets@candidate")
    assert caught.value.fix == "there are: live"


@given(st.text(max_size=100) | st.sampled_from(["..", "a/b", "A", "-a", ".a", "a" * 65, "%2e%2e", "a b", "a\n", "é"]))
def test_publishing_takes_safe_names_only(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "never-written"
    store = Store(folder)
    if NAME.fullmatch(name):
        assert (folder / name).resolve().parent == folder.resolve()
        return
    with pytest.raises(UsageError, match="cannot be a model's name"):
        store.publish(name, Bundle(folder, None))  # type: ignore[arg-type]  # it is refused before it is looked at
    assert store.versions(name) == ()
    assert not folder.exists()


@pytest.mark.parametrize("name", ["a", "0", "tickets", "a.b-c_d", "a" * 64, "a.."])
def test_names_that_are_fine(store: Store, bundle: Bundle, name: str) -> None:
    store.publish(name, bundle)
    assert store.names() == (name,)
    assert store.resolve(f"{name}@live").version == 1


# Aliases


def test_promote_and_rollback(three: Store) -> None:
    three.promote("tickets", 2)
    three.promote("tickets", 3)
    three.promote("tickets", 3)
    assert three.resolve("tickets@live").version == 3
    assert three.rollback("tickets").version == 2
    assert three.rollback("tickets").version == 1
    with pytest.raises(NotFoundError, match="no other version before"):
        three.rollback("tickets")
    assert three.aliases("tickets") == {"live": 1}


def test_rollback_after_a_rollback_and_a_promotion(three: Store) -> None:
    three.promote("tickets", 2)
    three.rollback("tickets")
    three.promote("tickets", 3)
    assert three.rollback("tickets").version == 1


def test_promoting_an_old_version_again_can_be_rolled_back(three: Store) -> None:
    three.promote("tickets", 2)
    three.promote("tickets", 1)
    assert three.rollback("tickets").version == 2


def test_aliases_are_independent(three: Store) -> None:
    three.promote("tickets", 2, "candidate")
    three.promote("tickets", 3, "candidate")
    assert three.aliases("tickets") == {"live": 1, "candidate": 3}
    assert three.rollback("tickets", "candidate").version == 2
    assert three.resolve("tickets@live").version == 1
    with pytest.raises(NotFoundError):
        three.rollback("tickets", "other")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda store: store.promote("nothing", 1), NotFoundError),
        (lambda store: store.promote("tickets", 9), NotFoundError),
        (lambda store: store.promote("tickets", 1, "../x"), UsageError),
        (lambda store: store.rollback("nothing"), NotFoundError),
        (lambda store: store.remove("nothing", 1), NotFoundError),
        (lambda store: store.remove("tickets", 9), NotFoundError),
        (lambda store: store.aliases("nothing"), NotFoundError),
    ],
)
def test_changes_of_what_is_not_there(three: Store, call: Callable[[Store], object], error: type[BudwoodError]) -> None:
    with pytest.raises(error):
        call(three)
    assert sorted(os.listdir(three.root)) == ["tickets"]


def test_a_damaged_bundle_is_never_promoted(three: Store) -> None:
    (three.root / "tickets" / "2" / "config.json").write_text("[]")
    with pytest.raises(BundleError, match=r"config\.json is damaged"):
        three.promote("tickets", 2)
    assert three.aliases("tickets") == {"live": 1}
    assert three.resolve("tickets@live").version == 1


def test_rollback_passes_over_versions_that_were_removed(three: Store) -> None:
    three.promote("tickets", 2)
    three.promote("tickets", 3)
    three.remove("tickets", 2)
    assert three.rollback("tickets").version == 1


def test_remove(three: Store) -> None:
    with pytest.raises(UsageError, match="tickets:1 is live") as caught:
        three.remove("tickets", 1)
    assert "promote" in caught.value.fix
    three.remove("tickets", 3)
    assert three.versions("tickets") == (1, 2)
    assert sorted(os.listdir(three.root / "tickets")) == [".lock", "1", "2", "aliases.json"]


def test_a_number_that_an_alias_knew_is_not_given_again(three: Store, bundle: Bundle) -> None:
    three.promote("tickets", 3)
    three.promote("tickets", 1)
    three.remove("tickets", 3)
    assert three.publish("tickets", bundle).version == 4


def test_a_pointer_to_a_version_that_is_gone(three: Store) -> None:
    three.promote("tickets", 3)
    shutil.rmtree(three.root / "tickets" / "3")
    with pytest.raises(NotFoundError, match="points at version 3, which is gone") as caught:
        three.resolve("tickets@live")
    assert caught.value.fix == "budwood models rollback tickets --alias live"
    assert three.rollback("tickets").version == 1
    assert three.resolve("tickets@live").version == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"aliases": {"live": "2"}, "other": 1}',
        b'{"aliases": 1}',
        b'{"history": [{"alias": "live"}]}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_pointer_file(three: Store, bundle: Bundle, content: bytes) -> None:
    path = three.root / "tickets" / "aliases.json"
    path.write_bytes(content)
    for call in (
        lambda: three.resolve("tickets@live"),
        lambda: three.promote("tickets", 2),
        lambda: three.rollback("tickets"),
        lambda: three.publish("tickets", bundle),
        lambda: three.remove("tickets", 1),
    ):
        with pytest.raises(BundleError, match="aliases of tickets are damaged") as caught:
            call()
        assert caught.value.where == str(path)
        assert caught.value.fix == f"rm '{path}' && budwood models promote tickets VERSION"
    assert three.resolve("tickets").version == 3
    assert three.resolve("tickets:2").version == 2
    path.unlink()
    assert three.promote("tickets", 2).version == 2
    assert three.resolve("tickets@live").version == 2


# Listing and lineage


def test_list_names_everything_and_hides_what_is_not_committed(three: Store, bundle: Bundle) -> None:
    three.publish("other", bundle)
    (three.root / ".staging-1-x").mkdir()
    (three.root / "tickets" / ".staging-1-x").mkdir()
    (three.root / "tickets" / "04").mkdir()
    (three.root / "empty").mkdir()
    (three.root / "notes.txt").touch()
    (three.root / "linked").symlink_to(three.root / "tickets")
    (three.root / "tickets" / "7").symlink_to(three.root / "tickets" / "1")
    three.work("run")
    three.save_splits(tiny.splits())
    listed = [(item.name, item.version, item.aliases, item.problem) for item in three.list()]
    assert listed == [
        ("other", 1, ("live",), ""),
        ("tickets", 1, ("live",), ""),
        ("tickets", 2, (), ""),
        ("tickets", 3, (), ""),
    ]


def test_list_shows_what_is_damaged(three: Store) -> None:
    (three.root / "tickets" / "2" / "bundle.json").write_text("{}")
    item = three.list()[1]
    assert item.bundle is None
    assert "bundle.json is damaged" in item.problem
    assert three.list()[0].bundle is not None


def test_an_empty_store(store: Store) -> None:
    assert store.list() == ()
    assert store.names() == ()
    assert store.versions("tickets") == ()
    with pytest.raises(NotFoundError):
        store.resolve("tickets")
    assert not store.root.exists()


def test_verify_finds_a_changed_byte_that_listing_does_not(three: Store) -> None:
    assert three.verify("tickets:2").version == 2
    path = three.root / "tickets" / "2" / "README.md"
    path.write_text("Small\n")
    assert not any(item.problem for item in three.list())
    assert three.resolve("tickets:2", verify=False).version == 2
    with pytest.raises(BundleError) as caught:
        three.verify("tickets:2")
    assert caught.value.where == str(path)


def test_lineage(store: Store, tmp_path: Path) -> None:
    base = tiny.small_bundle(tmp_path / "a", history=[StepRecord(name="adapt.head")])
    store.publish("tickets", base)
    unpublished = Bundle.create(tmp_path / "b", base.draft("export.onnx"), lambda folder: (folder / "a.md").touch())
    draft = unpublished.draft("shrink.quantize_dynamic", {"reduce_range": True})
    store.publish("small", Bundle.create(tmp_path / "c", draft, lambda folder: (folder / "a.md").touch()))
    ancestors = store.lineage(store.resolve("small"))
    assert [item.step.name for item in ancestors] == ["adapt.head", "export.onnx", "shrink.quantize_dynamic"]
    places = [item.entry and (item.entry.name, item.entry.version) for item in ancestors]
    assert places == [("tickets", 1), None, ("small", 1)]
    assert ancestors[2].step.parameters == {"reduce_range": True}


# Work


def test_a_second_run_of_the_same_work_is_refused(store: Store) -> None:
    with store.lock("abc") as folder:
        (folder / "checkpoint").touch()
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), store.lock("abc"):
            pytest.fail("the lock was given twice")
        with store.lock("other"):
            pass
    with store.lock("abc") as folder:
        assert (folder / "checkpoint").exists()
    assert folder == store.work("abc") == store.root / ".work" / "abc"
    assert store.names() == ()


@pytest.mark.parametrize("key", ["", "..", "../x", "a/b", ".hidden", "a\0", "x" * 200])
def test_keys_of_work_are_names(store: Store, key: str) -> None:
    with pytest.raises(UsageError):
        store.work(key)


def test_the_rows_are_private(store: Store) -> None:
    splits = tiny.splits()
    store.save_splits(splits)
    assert store.load_splits(splits.fingerprint) == splits
    for path in (store.root / ".datasets", *(store.root / ".datasets").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
