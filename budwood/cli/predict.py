"""`budwood predict`: answers for texts and images on the command line, in files, in tables or from standard input."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budwood.cli.options import Input, Model, Store
from budwood.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

SHOWN_CHARACTERS = 80


def predict(
    model: Model,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT|FILE", help="Texts, images, tables, .txt files of a text a line, or - for stdin."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="TABLE|DIR", help="A table, or a folder of tables or images; no labels needed."),
    ] = None,
    input: Input = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT", help="Write .csv, .tsv or .jsonl instead of printing.")
    ] = None,
    top: Annotated[int, typer.Option(metavar="K", help="How many labels with their scores.")] = 3,
    store: Store = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a row on standard output.")] = False,
) -> None:
    """Answer texts, images and tables, in their order."""
    with Screen(json, f"predict: opening {model}") as screen:
        from budwood import flow
        from budwood.cli.answers import sources, write
        from budwood.core.errors import UsageError

        parts = sources(inputs or [], file, screen.note)
        if not parts:
            raise UsageError("there is nothing to answer", where="TEXT", fix=f'budwood predict {model} "a text"')

        def answers() -> "Iterator[Mapping[str, Any]]":
            for part in parts:
                yield from flow.predict(model, part.texts, file=part.table, input=input, top=top, store=store)

        if out is not None:
            count = write(answers(), out)
            screen.note(f"wrote {count:,} answers to {out}")
        elif json:
            for answer in answers():
                screen.row(answer)
        else:
            show(screen, answers())


def show(screen: Screen, answers: "Iterable[Mapping[str, Any]]") -> None:
    """A line an answer: the label, how sure the model is, and the input."""
    for answer in answers:
        if "error" in answer:
            screen.note(f"no answer: {answer['error']}")
            continue
        names = answer["labels"] if "labels" in answer else [answer["label"]]
        score = answer.get("score")
        sure = "" if score is None else f"{100 * score:5.1f} %  "
        truncated = "  (cut)" if answer.get("truncated") else ""
        text = " ".join(str(answer.get("text", answer.get("image", ""))).split())
        shown = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
        screen.line(f"{', '.join(names) or '(none)':<24} {sure}{shown}{truncated}")
