"""The OpenAPI document: it names every route, and the server keeps to it whatever is thrown at it."""

from typing import Any

import httpx
import pytest
import schemathesis
import served
from hypothesis import HealthCheck, Phase, given, settings

from budwood.serving.routes import ROUTES, Route
from budwood.serving.server import Handle

PROFILE = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)

DESCRIBED = [route for route in ROUTES if route.shape != "part"]
"""The parts of pages are for the pages alone."""


@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
@pytest.mark.parametrize("route", DESCRIBED, ids=lambda route: f"{route.method} {route.path}")
def test_the_server_keeps_to_its_document(
    server: Handle, described: Any, route: Route, mode: schemathesis.GenerationMode
) -> None:
    """Valid requests are accepted, invalid ones refused, and every answer is one that the document names."""
    operation = described[route.path][route.method]
    if mode is schemathesis.GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
        pytest.skip("there is nothing to get wrong")

    @PROFILE
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        response = case.call(timeout=30)
        if response.status_code != 413:  # too long is refused before anybody looks whether it is also wrong
            case.validate_response(response)

    check()


@pytest.fixture(scope="module")
def described(server: Handle) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def test_every_route_is_described(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in DESCRIBED}
    assert document["openapi"].startswith("3.1")


def test_keys_are_described_where_they_are_needed(tmp_path_factory: pytest.TempPathFactory) -> None:
    from budwood.serving.auth import create_key

    folder = tmp_path_factory.mktemp("guarded")
    key = create_key(folder / "keys", "alice")
    with served.start_null(folder / "bundle", keys=folder / "keys") as handle:
        document = httpx.get(f"{handle.url}/openapi.json", headers={"x-api-key": key}).json()
    assert document["paths"]["/predict"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert document["paths"]["/livez"]["get"]["security"] == []
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
