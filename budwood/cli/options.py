"""Flags that several verbs share, declared once: what they are called and what `--help` says of them."""

import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "Base",
    "Bins",
    "Data",
    "Dropout",
    "Group",
    "Hidden",
    "Horizon",
    "ImageSize",
    "Input",
    "Json",
    "MaxMinutes",
    "Method",
    "Model",
    "NoFlip",
    "Positive",
    "Rotate",
    "Seed",
    "Shots",
    "Split",
    "Store",
    "Target",
    "Task",
    "Test",
    "Unlabelled",
    "choices",
    "task_options",
    "typed_flags",
]

INNER = ("detector", "language")
"""Steps that are parts of other methods, and cannot be asked for."""

Model = Annotated[str, typer.Argument(metavar="MODEL", help="name, name:version, name@alias or a folder.")]
Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="A table with labels (csv, tsv, jsonl, parquet), or a folder of tables.")
]
Target = Annotated[
    str | None,
    typer.Option("--target", metavar="COL", help="The column with the label; of times: TIME,EVENT.  [default: found]"),
]
Input = Annotated[
    str | None,
    typer.Option("--input", metavar="COL", help="The column with the text; several with commas.  [default: found]"),
]
Group = Annotated[
    str | None, typer.Option("--group", metavar="COL", help="Rows with equal values here are never split up.")
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="scaffold|scaffold_balanced|random",
        help="Of molecules: how test rows are set aside.  [default: scaffold]",
    ),
]
NoFlip = Annotated[
    bool,
    typer.Option("--no-flip", help="Of images: a mirrored one means something else (X-rays, plates, writing)."),
]
Rotate = Annotated[bool, typer.Option("--rotate", help="Of images: they have no up and down (galaxies, cells, maps).")]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size", metavar="PIXELS", help="Of images: what the network reads; less is faster.  [default: by base]"
    ),
]
Base = Annotated[
    str,
    typer.Option("--base", metavar="BASE", help="The pretrained model: a folder or a name; --list-bases shows some."),
]
Unlabelled = Annotated[
    Path | None,
    typer.Option(
        "--unlabelled", metavar="DATA", help="Rows without labels; the surest answers on them are learnt too."
    ),
]
Test = Annotated[Path | None, typer.Option("--test", metavar="DATA", help="Test rows.  [default: set aside from DATA]")]
Shots = Annotated[int | None, typer.Option("--shots", metavar="K", help="Learn from K rows of each label only.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of every random choice.")]
MaxMinutes = Annotated[
    float | None, typer.Option("--max-minutes", metavar="M", help="How long it may take, as a wish.")
]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="DIR", help="Where models are kept.  [default: BUDWOOD_STORE, else models/]"),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Top = Annotated[
    int | None,
    typer.Option(
        metavar="K", help="Labels with their scores, objects, or the best of a library.  [default: 3, or all]"
    ),
]
By = Annotated[
    str | None, typer.Option(metavar="PROPERTY", help="Of a molecule model: what to rank by.  [default: the first]")
]
Explain = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Of images: write heat maps of what each answer rests on.")
]
Draw = Annotated[Path | None, typer.Option(metavar="DIR", help="Of a detector: write the images with their boxes.")]
MinScore = Annotated[float | None, typer.Option(metavar="S", help="Of a detector: report objects from this score on.")]


def choices(folder: str, without: Sequence[str] = ()) -> str:
    """`auto` and the plug-ins of a folder, for a help text. Only names of files are read, nothing is imported."""
    spec = find_spec(f"budwood.{folder}")
    found = {
        file.stem
        for place in (spec.submodule_search_locations or () if spec else ())
        for file in Path(place).glob("[!_]*.py")
    }
    return "|".join(["auto", *sorted(found - {*without})])


def task_options(context: typer.Context) -> dict[str, Any]:
    """What a task should know of the data beside its columns; nothing where no flag is given."""
    given = {name: context.params[name] for name in ("rotate", "image_size", *NUMBER_FLAGS)}
    known = {name: value for name, value in given.items() if value is not None and value is not False}
    return {"flip": False, **known} if context.params["no_flip"] else known


def typed_flags(context: typer.Context, *without: str) -> str:
    """The options that were typed, but for those named, as they may be typed again; each after a space."""
    found = ""
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        source = context.get_parameter_source(name)
        if parameter.param_type_name != "option" or name in without or source is None or source.name != "COMMANDLINE":
            continue
        found += f" {parameter.opts[0]}" + ("" if value is True else f" {shlex.quote(str(value))}")
    return found


NUMBER_FLAGS = ("bins", "hidden", "dropout", "horizon", "positive")
Bins = Annotated[
    str | None,
    typer.Option(metavar="EDGES", help="Of numbers and risks: where bins end, 0.06,0.16.  [default: five equal ones]"),
]
Hidden = Annotated[
    int | None, typer.Option(metavar="UNITS", help="Of numbers and risks: a hidden layer, learnt by fine-tuning.")
]
Dropout = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Of --hidden: the share of its units that each step leaves out.")
]
Horizon = Annotated[
    float | None, typer.Option(metavar="TIME", help="Of times to an event: the risk by then.  [default: the median]")
]
Positive = Annotated[
    str | None, typer.Option(metavar="LABEL", help="Of risks: the label whose risk it is.  [default: found]")
]
Task = Annotated[str, typer.Option("--task", metavar=choices("tasks"), help="What is learnt.")]
Method = Annotated[
    str, typer.Option("--method", metavar=choices("steps.adapt", INNER), help="How to learn; auto decides by the rows.")
]
