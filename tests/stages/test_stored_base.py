"""`--base` names a model of the store, unless a folder or the list of known bases has that name."""

from pathlib import Path

import pytest
import tiny

from budwood.core.errors import NotFoundError
from budwood.core.store import Store
from budwood.stages.adapting import stored_base


@pytest.fixture
def store(tmp_path: Path) -> Store:
    home = Store(tmp_path / "models")
    for content in ("1", "2"):
        home.publish("tickets", tiny.small_bundle(tmp_path / content, content))
    return home


@pytest.mark.parametrize(("base", "version"), [("tickets", 2), ("tickets:1", 1), ("tickets:2", 2), ("tickets@live", 1)])
def test_a_name_a_version_and_an_alias_are_found(store: Store, base: str, version: int) -> None:
    found = stored_base(base, store)
    assert found is not None
    assert (found.folder, found.label) == (store.root / "tickets" / str(version), f"tickets:{version}")


def test_a_folder_of_that_name_and_unknown_names_are_left_to_others(store: Store, tmp_path: Path) -> None:
    store.publish("minilm-l6", tiny.small_bundle(tmp_path / "named"))
    (tmp_path / "tickets").mkdir()
    for base in ("tickets", "auto", "minilm-l6", "owner/tickets", "./tickets", "nothing"):
        assert stored_base(base, store) is None


def test_a_version_that_is_not_there_is_no_reason_to_ask_the_hub(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no version 7"):
        stored_base("tickets:7", store)
