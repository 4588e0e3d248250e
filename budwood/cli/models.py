"""`budwood models`: what the store holds, where it came from, and which version is live."""

from typing import Annotated, Any

import typer

from budwood.cli.options import Json, Model, Store
from budwood.cli.screen import Screen, percent, span

__all__ = ["models"]

models = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model's name, or NAME:VERSION.")]
Version = Annotated[int | None, typer.Argument(metavar="VERSION", help="Its number, where NAME does not have it.")]
Alias = Annotated[str, typer.Option(metavar="ALIAS", help="Which pointer moves.")]


@models.callback(invoke_without_command=True)
def every(context: typer.Context, store: Store = None, json: Json = False) -> None:
    """List, show, verify, promote, roll back and remove models."""
    if context.invoked_subcommand is None:
        list_models(store, json)


@models.command("list")
def list_models(store: Store = None, json: Json = False) -> None:
    """List every version of every model."""
    with Screen(json) as screen:
        from budwood import flow

        home = flow.models(store)
        found = [summary(item) for item in home.list()]
        if json:
            screen.data({"store": str(home.root), "models": found})
            return
        if not found:
            screen.note(f"no models in {home.root}")
            screen.next("budwood demo", "budwood adapt DATA")
            return
        headers = ("model", "aliases", "made by", "task", "metric", "%", "MB", "created")
        screen.table(headers, [line(item) for item in found])


@models.command()
def show(model: Model, store: Store = None, json: Json = False) -> None:
    """Show what a model is, what it was made from and what was measured."""
    with Screen(json) as screen:
        from budwood import flow

        entry = flow.entry(model, store)
        manifest = entry.bundle.manifest
        if json:
            facts = manifest.model_dump(mode="json")
            screen.data({"name": entry.name, "version": entry.version, "path": entry.bundle.path} | facts)
            return
        for name, value in described(entry):
            screen.line(f"{name:<12}{value}")
        screen.next(f"budwood models lineage {model}", f"budwood models verify {model}")


@models.command()
def lineage(model: Model, store: Store = None, json: Json = False) -> None:
    """Show every step from the base model to this one."""
    with Screen(json) as screen:
        from budwood import flow

        home = flow.models(store)
        entry = home.resolve(model)
        steps = [
            {
                "step": item.step.name,
                "parameters": item.step.parameters,
                "id": item.entry.bundle.id if item.entry else item.step.bundle,
                "model": label(item.entry.name, item.entry.version) if item.entry else None,
            }
            for item in home.lineage(entry)
        ]
        if json:
            screen.data({"name": entry.name, "version": entry.version, "id": entry.bundle.id, "steps": steps})
            return
        rows = [
            (str(step["step"]), parameters(step["parameters"]), str(step["id"] or "")[:12], str(step["model"] or ""))
            for step in steps
        ]
        screen.table(("step", "parameters", "id", "stored as"), rows)


@models.command()
def promote(
    name: Name, version: Version = None, alias: Alias = "live", store: Store = None, json: Json = False
) -> None:
    """Point an alias at a version, after checking every byte of it."""
    with Screen(json) as screen:
        from budwood import flow

        entry = flow.models(store).promote(*numbered(name, version, "promote"), alias)
        moved(screen, entry.name, entry.version, alias)


@models.command()
def rollback(name: Name, alias: Alias = "live", store: Store = None, json: Json = False) -> None:
    """Point an alias back at the version that it was promoted to before."""
    with Screen(json) as screen:
        from budwood import flow

        entry = flow.models(store).rollback(name, alias)
        moved(screen, entry.name, entry.version, alias)


@models.command()
def verify(model: Model, store: Store = None, json: Json = False) -> None:
    """Check every byte of a model against its hashes."""
    with Screen(json) as screen:
        from budwood import flow

        entry = flow.models(store).verify(model)
        count = len(entry.bundle.manifest.files)
        if json:
            screen.data(
                {"name": entry.name, "version": entry.version, "id": entry.bundle.id, "files": count, "ok": True}
            )
        else:
            screen.line(f"{label(entry.name, entry.version)} is intact: {count} files, id {entry.bundle.id[:12]}")


@models.command()
def remove(name: Name, version: Version = None, store: Store = None, json: Json = False) -> None:
    """Delete a version for good; one that an alias points at is refused."""
    with Screen(json) as screen:
        from budwood import flow

        plain, number = numbered(name, version, "remove")
        flow.models(store).remove(plain, number)
        if json:
            screen.data({"name": plain, "version": number, "removed": True})
        else:
            screen.line(f"{label(plain, number)} is removed")


def numbered(name: str, version: int | None, verb: str) -> tuple[str, int]:
    """Name and version from `NAME VERSION` or `NAME:VERSION`. Raises UsageError where there is no version."""
    from budwood.core.errors import UsageError

    plain, _, number = name.partition(":")
    plain, _, alias = plain.partition("@")
    if alias:
        asked = f"budwood models {verb} {plain} {version or 'VERSION'}"
        fix = f"{asked} --alias {alias}" if verb == "promote" else asked
        raise UsageError(f"{name} names an alias, and no version", where="NAME", fix=fix)
    if version is None and number.isascii() and number.isdigit():
        return plain, int(number)
    if version is None or number:
        raise UsageError("which version?", where=name, fix=f"budwood models {verb} {plain} VERSION")
    return plain, version


def moved(screen: Screen, name: str, version: int, alias: str) -> None:
    if screen.as_json:
        screen.data({"name": name, "version": version, "alias": alias})
    else:
        screen.line(f"{name}@{alias} is {label(name, version)} now")


def label(name: str, version: int) -> str:
    """`tickets:2`; a folder outside the store has no version."""
    return f"{name}:{version}" if version else name


def summary(item: Any) -> dict[str, Any]:
    """A `Listing` as JSON values."""
    manifest = item.bundle.manifest if item.bundle else None
    metric = next(iter(manifest.metrics.items()), None) if manifest else None
    return {
        "name": item.name,
        "version": item.version,
        "aliases": list(item.aliases),
        "id": manifest.id if manifest else None,
        "path": item.bundle.path if item.bundle else None,
        "made_by": made_by(manifest.history) if manifest else None,
        "task": (manifest.task or {}).get("name") if manifest else None,
        "base": manifest.base if manifest else None,
        "metric": metric[0] if metric else None,
        "score": metric[1].value if metric else None,
        "size_mb": round(item.bundle.serving_bytes / 1e6, 1) if item.bundle else None,
        "created": manifest.created if manifest else None,
        "problem": item.problem,
    }


def made_by(history: Any) -> str | None:
    """The last step that changed what the model knows; the steps after it write files."""
    names = [step.name for step in history]
    learning = [name for name in names if name.startswith(("adapt.", "shrink."))]
    return next(reversed(learning or names), None)


def line(item: dict[str, Any]) -> tuple[str, ...]:
    name = label(item["name"], item["version"])
    aliases = ", ".join(item["aliases"])
    if item["problem"]:
        return (name, aliases, f"damaged: {item['problem']}", "", "", "", "", "")
    size = "" if item["size_mb"] is None else f"{item['size_mb']:,.1f}"
    created = str(item["created"])[:16].replace("T", " ")
    facts = (item["made_by"] or "", item["task"] or "", item["metric"] or "", percent(item["score"]))
    return (name, aliases, *facts, size, created)


def described(entry: Any) -> list[tuple[str, str]]:
    """What `show` prints: names and values."""
    manifest = entry.bundle.manifest
    task = dict(manifest.task or {})
    labels = [str(item) for item in task.get("labels", ())]
    rows = manifest.data.rows if manifest.data else {}
    facts = [
        ("model", label(entry.name, entry.version)),
        ("path", str(entry.bundle.path)),
        ("id", manifest.id),
        ("parent", manifest.parent or ""),
        ("task", str(task.get("name", ""))),
        ("labels", f"{len(labels)}: {', '.join(labels[:12])}{' …' if len(labels) > 12 else ''}" if labels else ""),
        ("base", manifest.base),
        ("license", manifest.license),
        ("data", ", ".join(f"{count:,} {name}" for name, count in rows.items())),
        ("formats", ", ".join(sorted(entry.bundle.formats))),
        ("created", f"{manifest.created} by Budwood {manifest.budwood}"),
    ]
    facts += [
        (name, f"{percent(item.value)} % {span(item.ci)} on {item.n:,} rows of {item.split}")
        for name, item in manifest.metrics.items()
    ]
    return [(name, value) for name, value in facts if value]


def parameters(values: Any) -> str:
    text = ", ".join(f"{name}={value}" for name, value in dict(values).items())
    return text if len(text) <= 70 else text[:69] + "…"
