"""`budwood export`: a model as a folder outside the store, for transformers, ONNX Runtime or a browser."""

from pathlib import Path
from typing import Annotated

import typer

from budwood.cli.options import Json, Model, Store, choices
from budwood.cli.screen import Screen

FORMATS = choices("steps.export").removeprefix("auto|")


def export(
    model: Model,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="A folder that does not exist yet.  [default: NAME-VERSION]")
    ] = None,
    format: Annotated[
        str, typer.Option(metavar=FORMATS, help="What the folder must hold; made where missing.")
    ] = "onnx",
    store: Store = None,
    json: Json = False,
) -> None:
    """Copy a model to a folder of its own, with its ONNX graph.

    It is an ordinary Hugging Face directory, which needs no Budwood.
    """
    with Screen(json, f"export: opening {model}") as screen:
        from budwood import flow

        if out is None:
            entry = flow.entry(model, store)
            out = Path(f"{entry.name}-{entry.version}" if entry.version else f"{entry.name}-export")
        path = flow.export(model, out, format=format, store=store, progress=screen.progress)
        files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
        if json:
            screen.data({"path": path, "format": format, "files": files})
            return
        screen.line(f"exported  {path}")
        screen.line(f"files     {', '.join(files)}")
        screen.next(f"python -c \"from transformers import {loader(path)} as A; A.from_pretrained('{path}')\"")


def loader(path: Path) -> str:
    """The class of transformers that loads the folder with its head, by what its configuration says it is."""
    from json import loads

    config = path / "config.json"
    kinds = loads(config.read_text(encoding="utf-8")).get("architectures") if config.exists() else None
    known = ("ForImageClassification", "ForObjectDetection", "ForCausalLM", "LMHeadModel")
    found = [end for end in known if any(str(kind).endswith(end) for kind in kinds or ())]
    return f"AutoModel{found[0].replace('LMHeadModel', 'ForCausalLM')}" if found else "AutoModel"
