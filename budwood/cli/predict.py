"""`budwood predict`: answers for texts and images on the command line, in files, in tables or from standard input."""

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budwood.cli.options import By, Draw, Explain, Input, MinScore, Model, Store, Top
from budwood.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from budwood.cli.answers import Part

SHOWN_CHARACTERS = 80
INPUTS = ("text", "image", "smiles")
"""Where an input stands in its answer."""


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
    top: Top = None,
    by: By = None,
    ascending: Annotated[bool, typer.Option("--ascending", help="Rank molecules from the smallest value.")] = False,
    target: Annotated[
        str | None, typer.Option(metavar="COL", help="Which molecules are known to be active; gives the enrichment.")
    ] = None,
    explain: Explain = None,
    draw: Draw = None,
    min_score: MinScore = None,
    store: Store = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a row on standard output.")] = False,
) -> None:
    """Answer texts, images and tables, or rank molecules.

    Answers come in the order of the inputs. A molecule model with --top, --by, --ascending or --target gives the best
    molecules of one file instead; the same command goes on after an interruption.
    """
    with Screen(json, f"predict: opening {model}") as screen:
        from budwood import flow
        from budwood.cli.ranking import rank
        from budwood.stages.screening import Question

        question = Question(top, by, ascending, target, input)
        if question.asked:
            made = flow.screening(model, inputs or [], file, question, store=store, progress=screen.progress)
            if made is not None:
                return rank(screen, made, out, file or Path((inputs or [""])[0]))
        found = (
            flow.predict(
                model,
                part.texts,
                file=part.table,
                input=input,
                top=top,
                explain=explain,
                draw=draw,
                min_score=min_score,
                store=store,
            )
            for part in parts_of(screen, model, inputs or [], file)
        )
        give(screen, chain.from_iterable(found), out)


def parts_of(screen: Screen, model: str, inputs: "Sequence[str]", file: Path | None) -> "Sequence[Part]":
    """What is answered. Raises UsageError when it is nothing."""
    from budwood.cli.answers import sources
    from budwood.core.errors import UsageError

    parts = sources(inputs, file, screen.note)
    if not parts:
        raise UsageError("there is nothing to answer", where="TEXT", fix=f'budwood predict {model} "a text"')
    return parts


def give(screen: Screen, answers: "Iterable[Mapping[str, Any]]", out: Path | None) -> None:
    """Write the answers to a file, or print them.

    Raises:
        DataError: not one input could be answered; what was wrong with each has been written or printed.
    """
    from budwood.cli.answers import write
    from budwood.core.errors import DataError

    asked, failed = 0, 0

    def counted() -> "Iterator[Mapping[str, Any]]":
        nonlocal asked, failed
        for answer in answers:
            asked, failed = asked + 1, failed + ("error" in answer)
            yield answer

    if out is not None:
        count = write(counted(), out)
        screen.note(f"wrote {count:,} answers to {out}")
    elif screen.as_json:
        for answer in counted():
            screen.row(answer)
    else:
        show(screen, counted())
    if failed and failed == asked:
        raise DataError("no input could be answered", where=f"{asked:,} inputs", fix="see the reason of each above")
    if failed:
        screen.note(f"{failed:,} of {asked:,} inputs could not be answered; the reason of each stands in its place")


def show(screen: Screen, answers: "Iterable[Mapping[str, Any]]") -> None:
    """A line an answer: the label or value, how sure the model is, and the input; what was written as it is."""
    from budwood.core.task import brief

    for answer in answers:
        if "error" in answer:
            screen.note(f"no answer: {answer['error']}")
            continue
        score = answer.get("score")
        sure = "" if score is None else f"{100 * score:5.1f} %  "
        truncated = "  (cut)" if answer.get("truncated") else ""
        if "finish_reason" in answer:
            screen.line(f"{answer['text']}{truncated}")
            continue
        text = " ".join(str(next((answer[name] for name in INPUTS if name in answer), "")).split())
        shown = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
        screen.line(f"{brief(answer):<24} {beside(answer)}{sure}{shown}{truncated}")


def beside(answer: "Mapping[str, Any]") -> str:
    """What belongs to a number: the interval that holds 9 of 10, its bin, and where its heat map lies."""
    from budwood.core.task import plain_number

    parts = [" to ".join(map(plain_number, answer["interval"]))] if "interval" in answer else []
    parts += [str(answer[name]) for name in ("bin", "explanation") if name in answer]
    return "".join(f"{part}  " for part in parts)
