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
    endings = {"ForImageClassification": "ForImageClassification", "ForObjectDetection": "ForObjectDetection"}
    endings |= {"ForCausalLM": "ForCausalLM", "LMHeadModel": "ForCausalLM"}
    found = [name for kind in kinds or () for end, name in endings.items() if str(kind).endswith(end)]
    return f"AutoModel{found[0]}" if found else "AutoModel"
