"""The pages, rendered by Jinja2: shells that anybody may load, and their parts, which need a key where there are keys.

A shell tells nothing of the models. Where there are keys its script fetches the parts with the key; where there are
none the parts stand in the page at once. Templates and static files are package data in `budwood/web`.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from budwood.serving.errors import HttpError
from budwood.serving.http import Request, Response
from budwood.serving.information import PAGE_HEADERS, figures
from budwood.serving.service import Service
from budwood.serving.stats import refresh

if TYPE_CHECKING:  # only who opens a page pays for templates
    from jinja2 import Environment

__all__ = ["live_part", "models_part", "shell", "static_file", "static_files", "try_part", "write_part"]

HTML = b"text/html; charset=utf-8"
KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
"""The suffixes of static files that are served, and their content types; licences and records are not."""
ICON = "/static/icon.svg"
FOREVER = (b"cache-control", b"public, max-age=604800")
"""For the vendored files, which are most of a page and change with a release."""
LONGEST = 20
"""Labels of one model that are listed."""


def web() -> Traversable:
    return files("budwood").joinpath("web")


def static_files() -> dict[str, tuple[bytes, bytes]]:
    """The files of the pages: path to content type and body."""
    found: dict[str, tuple[bytes, bytes]] = {}
    for folder in ("static", "static/vendor"):
        for file in web().joinpath(folder).iterdir():
            kind = KINDS.get("." + file.name.rpartition(".")[2])
            if kind is not None:
                found[f"/{folder}/{file.name}"] = (kind.encode(), file.read_bytes())
    return found | {"/favicon.ico": found[ICON]}


async def static_file(service: Service, request: Request) -> Response:
    """One of `static_files`."""
    kind, body = service.pages[request.path]
    vendored = request.path.startswith("/static/vendor/")
    headers = tuple(item for item in PAGE_HEADERS if not (vendored and item[0] == FOREVER[0]))
    return Response(body, content_type=kind, headers=(*headers, FOREVER) if vendored else headers)


@cache
def environment() -> "Environment":
    """Every value is escaped, and a name that is missing is an error."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    from budwood.engine.card import figure_of, span_of, title_of

    def source(name: str) -> str:
        return web().joinpath("templates", name).read_text("utf-8")

    made = Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for written in (figure, milliseconds, percent, chance, quoted):
        made.filters[written.__name__] = written
    made.globals |= {"figure_of": figure_of, "span_of": span_of, "title_of": title_of}
    return made


def figure(value: float | None) -> str:
    """A number in four digits; a dash for none."""
    return "–" if value is None else f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def chance(p: float | None) -> str:
    """A p value."""
    return "–" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def quoted(value: str) -> str:
    """As one part of a path, or one value of a query."""
    return quote(value, safe="")


# What the pages tell of the models


def shown(service: Service) -> list[dict[str, Any]]:
    """The models of GET /stats, each with what its bundle says of it and with the name by which a path finds it."""
    found: list[dict[str, Any]] = []
    names: set[str] = set()
    for item in figures(service)["models"]:
        full = f"{item['name']}:{item['version']}"
        address = full if item["name"] in names else item["name"]
        names.add(item["name"])
        more = {"full": full, "address": address, "kind": item["task"].replace("_", " "), **recorded(service, item)}
        found.append({**item, **more, "state": state_of(service, item)})
    return found


def state_of(service: Service, item: Mapping[str, Any]) -> str:
    """What becomes of a request to a model now, as this worker sees it."""
    if service.draining or not service.ready:
        return "stopping"
    if item["problem"]:
        return "reload failed" if item["open"] else "cannot be opened"
    return "ready" if item["open"] else "opens when asked"


def recorded(service: Service, item: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle records: base, score with its interval, megabytes that a server loads."""
    from budwood.engine.card import figure_of, span_of, title_of

    bundle = service.find(item["name"], item["version"]).bundle
    if bundle is None:
        return {"base": "", "score": None, "size_mb": None}
    named = next(iter(bundle.manifest.metrics.items()), None)
    score = None
    if named is not None:
        name, metric = named
        score = {"title": title_of(name), "value": figure_of(name, metric.value), "span": span_of(name, metric.ci)}
    return {"base": bundle.manifest.base, "score": score, "size_mb": bundle.serving_bytes / 1e6}


def chosen(service: Service, request: Request) -> dict[str, Any]:
    """The model that `?model=NAME[:VERSION]` names, the first one without it. Raises HttpError 404."""
    name = request.query().get("model", "")
    for item in shown(service):
        if name in ("", item["name"], item["full"]):
            return item
    raise HttpError(404, "there is no such model")


# The parts


def models_context(service: Service, request: Request) -> dict[str, Any]:
    return {"live": figures(service), "models": shown(service), "chosen": request.query().get("model", "")}


def try_context(service: Service, request: Request) -> dict[str, Any]:
    return {"model": chosen(service, request), "texts": service.limits.text_characters}


def write_context(service: Service, request: Request) -> dict[str, Any]:
    return {"models": [item for item in shown(service) if item["writes"]], "texts": service.limits.text_characters}


def live_context(service: Service, request: Request) -> dict[str, Any]:
    live = figures(service)
    models = shown(service)
    for item in models:
        counts = item.get("classes") or item["predictions"]
        item["counts"] = sorted(((n, label) for label, n in counts.items() if n), key=lambda pair: (-pair[0], pair[1]))
        item["answers"] = sum(n for n, _ in item["counts"])
    drawn = {name: value for name, value in live.items() if name != "models"}
    kept = ("requests_per_second", "per_second", "p50_ms", "p95_ms", "p99_ms", "errors")
    drawn["models"] = [
        {
            "full": item["full"],
            "classes": {label: n for n, label in item["counts"][:LONGEST]},
            **{name: item[name] for name in kept if name in item},
        }
        for item in models
    ]
    return {"live": live, "models": models, "drawn": json.dumps(drawn), "longest": LONGEST}


PARTS: dict[str, Callable[[Service, Request], dict[str, Any]]] = {
    "models": models_context,
    "try": try_context,
    "write": write_context,
    "live": live_context,
}
"""The name of each part, and what it is rendered from."""
SHELLS = {"/": ("try.html", ("models", "try")), "/write": ("write.html", ("write",)), "/live": ("live.html", ("live",))}
"""The path of each shell: its template and its parts."""


async def part(service: Service, request: Request, name: str) -> str:
    if name == "live":
        await refresh(service)
    return environment().get_template(f"parts/{name}.html").render(PARTS[name](service, request))


async def models_part(service: Service, request: Request) -> Response:
    """The list of models."""
    return html(await part(service, request, "models"))


async def try_part(service: Service, request: Request) -> Response:
    """The playground of one model."""
    return html(await part(service, request, "try"))


async def write_part(service: Service, request: Request) -> Response:
    """The writing page's generators."""
    return html(await part(service, request, "write"))


async def live_part(service: Service, request: Request) -> Response:
    """The live figures as tables, with what the plots are drawn from."""
    await refresh(service)
    return html(await part(service, request, "live"))


async def shell(service: Service, request: Request) -> Response:
    """A page. Where there are keys it holds nothing of the models: its script asks for the parts with the key."""
    from markupsafe import Markup

    template, names = SHELLS.get(request.path, ("docs.html", ()))
    guarded = service.keys is not None
    query = request.scope["query_string"].decode("ascii", "replace")
    parts = {name: None if guarded else Markup(await part(service, request, name)) for name in names}  # noqa: S704
    return html(
        environment()
        .get_template(template)
        .render(path=request.path, guarded=guarded, parts=parts, query=f"?{query}" if query else "")
    )


def html(text: str) -> Response:
    return Response(text.encode(), content_type=HTML, headers=PAGE_HEADERS)
