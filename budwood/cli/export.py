"""`budwood export`: a model as a folder outside the store, for transformers, ONNX Runtime, a browser or a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from budwood.cli.options import Json, Store, choices
from budwood.cli.screen import Screen
from budwood.stages.export_folders import FOLDERS

FORMATS = choices("steps.export").removeprefix("auto|")
WORDS = "MODEL, then where to write it. A kind of folder may stand before it."
IMAGE = "What `export docker` builds on; a Debian with Python.  [default: python:3.N-slim of this Python]"


def export(
    words: Annotated[list[str], typer.Argument(metavar="[edge|browser|docker|systemd] MODEL [OUT]", help=WORDS)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="OUT", help="The same as OUT: a new folder.  [default: NAME-VERSION]"),
    ] = None,
    format: Annotated[
        str, typer.Option(metavar=FORMATS, help="What the folder must hold; made where missing.")
    ] = "onnx",
    image: Annotated[str, typer.Option(metavar="IMAGE", help=IMAGE, show_default=False)] = "",
    store: Store = None,
    json: Json = False,
) -> None:
    """Copy a model to a folder of its own, with its ONNX graph.

    It is an ordinary Hugging Face directory, which needs no Budwood. `export edge` writes a classifier with a runner
    that needs nothing but onnxruntime and numpy, `export browser` one with a web page that runs it by transformers.js.
    `export docker` and `export systemd` write a folder from which a server is installed.
    """
    kind, model, given = parsed(words, out)
    kind = kind or (format if format in FOLDERS else "")
    with Screen(json, f"export: opening {model}") as screen:
        from budwood import flow
        from budwood.core.errors import UsageError

        if not kind and model in FOLDERS and not flow.models(store).versions(model):
            raise UsageError("there is no model to export", where="MODEL", fix=f"budwood export {model} MODEL")
        if given is None:
            entry = flow.entry(model, store)
            end = kind or (str(entry.version) if entry.version else "export")
            given = Path(f"{entry.name}-{end}")
        path = flow.export(model, given, format=kind or format, image=image, store=store, progress=screen.progress)
        files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
        if json:
            screen.data({"path": path, "format": kind or format, "files": files, "size_mb": round(size, 2)})
            return
        screen.line(f"exported  {path}")
        screen.line(f"files     {', '.join(files)}")
        screen.line(f"size      {size:,.1f} MB")
        screen.next(*then(kind, path))


def parsed(words: Sequence[str], out: Path | None) -> tuple[str, str, Path | None]:
    """Kind of folder (empty for a copy), model and place. Raises UsageError where there are too many words."""
    from budwood.core.errors import UsageError

    kind, rest = (words[0], words[1:]) if words[0] in FOLDERS and len(words) > 1 else ("", words)
    places = [*map(Path, rest[1:]), *([out] if out is not None else [])]
    if len(places) > 1:
        raise UsageError("there is more than one place to write to", where=str(places[1]), fix="name one folder")
    return kind, rest[0], places[0] if places else None


def then(kind: str, path: Path) -> tuple[str, ...]:
    """What to type next."""
    from shlex import quote

    if kind == "edge":
        example = "photo.ppm" if "image" in (path / "model.json").read_text(encoding="utf-8")[:60] else '"a text"'
        return (f"python {quote(str(path / 'run.py'))} {example}",)
    if kind == "docker":
        make = "mkdir keys && budwood keys make keys/keys me && chmod a+r keys/keys"
        return (f"cd {quote(str(path))} && {make}", "docker compose up --build")
    if kind == "systemd":
        return (f"less {quote(str(path / 'README.md'))}",)
    if kind == "browser":
        return (f"cd {quote(str(path))} && npm install --ignore-scripts && python -m http.server",)
    return (f"python -c \"from transformers import {loader(path)} as A; A.from_pretrained('{path}')\"",)


def loader(path: Path) -> str:
    """The class of transformers that loads the folder with its head, by what its configuration says it is."""
    from json import loads

    config = path / "config.json"
    kinds = loads(config.read_text(encoding="utf-8")).get("architectures") if config.exists() else None
    known = ("ForImageClassification", "ForObjectDetection", "ForCausalLM", "LMHeadModel")
    found = [end for end in known if any(str(kind).endswith(end) for kind in kinds or ())]
    return f"AutoModel{found[0].replace('LMHeadModel', 'ForCausalLM')}" if found else "AutoModel"
