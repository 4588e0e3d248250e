"""One server for all tests that only ask, and a client for it."""

from collections.abc import Iterator

import httpx
import pytest
import served

from budwood.serving.server import Handle


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    with served.start_null(tmp_path_factory.mktemp("served") / "bundle") as handle:
        yield handle


@pytest.fixture
def client(server: Handle) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
