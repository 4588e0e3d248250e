"""One browser and some servers for the tests of the pages."""

from collections.abc import Iterator

import pytest
import served
from chromium import Tab, browser

from budwood.serving.model import Served
from budwood.serving.server import Handle, start

EVIL = "<img src=x onerror=document.title=1>"


@pytest.fixture(scope="package")
def page_tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="package")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    """A server whose labels are markup."""
    bundle = served.null_bundle(tmp_path_factory.mktemp("evil") / "bundle", labels=(EVIL, EVIL + "2", EVIL + "3"))
    with start([Served("tiny", "1", bundle)], runtime="null", limits=served.QUICK) as handle:
        yield handle


@pytest.fixture(scope="package")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    """A server with two generators, which write the same."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    import tiny_language

    bundle = tiny_language.bundle(tmp_path_factory.mktemp("writers") / "bundle")
    with start([Served("base", "1", bundle), Served("small", "2", bundle)], limits=served.QUICK) as handle:
        yield handle
