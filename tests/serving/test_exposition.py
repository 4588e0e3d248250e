"""What Prometheus and Grafana see: names by the rules of Prometheus, and a dashboard of figures that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import watched
from prometheus_client.parser import text_string_to_metric_families

from budwood.serving.server import Handle

NO_BASE_UNITS = ("milliseconds", "ms", "minutes", "hours", "kilobytes", "megabytes", "percent")
KINDS = ("counter", "gauge", "histogram", "summary")


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    with watched.start_watched(tmp_path_factory.mktemp("exposed")) as handle:
        for seed in range(2):
            reply = httpx.post(f"{handle.url}/predict", json={"inputs": watched.texts(80, seed=seed)})
        label = reply.json()["outputs"][0]["label"]
        httpx.post(f"{handle.url}/feedback/{reply.headers['x-request-id']}", json={"label": label}).raise_for_status()
        yield handle


def test_names_follow_the_rules_of_prometheus(handle: Handle) -> None:
    text = httpx.get(f"{handle.url}/metrics").text
    families = list(text_string_to_metric_families(text))
    assert len(families) == len({family.name for family in families})
    for family in families:
        # The parser takes `_total` off the names of counters.
        assert re.fullmatch(r"budwood(_[a-z]+)+", family.name), family.name
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram"), family.name
        words = family.name.split("_")
        assert not set(words) & {*NO_BASE_UNITS, *KINDS}, family.name
        assert "total" not in words, family.name
        for sample in family.samples:
            assert family.type == "histogram" or not {"le", "quantile"} & set(sample.labels)
            assert family.type != "counter" or sample.name == f"{family.name}_total"
            assert set(sample.labels) <= {"model", "version", "code", "label", "le", "what", "method", "metric"}


def test_each_figure_of_the_dashboard_exists(handle: Handle) -> None:
    families = list(text_string_to_metric_families(httpx.get(f"{handle.url}/metrics").text))
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    there = {family.name + suffix for family in families for suffix in suffixes[family.type]}
    dashboard = httpx.get(f"{handle.url}/grafana.json").json()
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
        for name in re.findall(r"budwood_\w+", target["expr"])
    }
    assert shown <= there
    variables = {name for item in dashboard["templating"]["list"] for name in re.findall(r"budwood_\w+", str(item))}
    assert variables == {"budwood_model_info"}
    # Each family is shown; the names of the models are what the dashboard is filtered by.
    families_shown = {family.name for family in families if any(name.startswith(family.name) for name in shown)}
    assert {family.name for family in families} - families_shown <= {"budwood_model_info"}


def test_panels_do_not_overlap_and_have_their_own_ids() -> None:
    path = Path(__file__).parents[2] / "budwood" / "serving" / "grafana.json"
    panels = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
