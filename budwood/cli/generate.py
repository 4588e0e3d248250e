"""`budwood generate`: write on from a prompt, as it is written, as JSON, or into files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budwood.cli.options import Json, Model, Store
from budwood.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budwood.stages.writing import Generated


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to go on from; nothing begins anew.")] = "",
    max_tokens: Annotated[int, typer.Option(metavar="N", help="New tokens at most.")] = 256,
    temperature: Annotated[float, typer.Option(metavar="T", help="0 takes the likeliest; 1 is as learnt.")] = 0.7,
    top_k: Annotated[int, typer.Option(metavar="K", help="Only the K likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(metavar="P", help="Only the likeliest that share P; 0: all.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(metavar="R", help="Above 1 repeats less.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End before it; may be given again.")] = None,
    truncate: Annotated[str | None, typer.Option(metavar="TEXT", help="Cut the text there when it is done.")] = None,
    n: Annotated[int, typer.Option("--n", metavar="N", help="How many texts.")] = 1,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Texts written side by side.")] = 1,
    include_prefix: Annotated[
        bool, typer.Option("--prefix/--no-prefix", help="Whether the prompt stands before each text.")
    ] = True,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed writes the same.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT", help="A .txt file for all, or a folder.")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Write texts with a model for text generation."""
    with Screen(json, f"generate: opening {model}") as screen:
        from budwood import flow

        found = flow.generate(
            model,
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            stop=stop,
            truncate=truncate,
            n=n,
            batch_size=batch_size,
            include_prefix=include_prefix,
            seed=seed,
            store=store,
        )
        if out is not None:
            from budwood.stages.writing import write_texts

            files = write_texts(found, out)
            screen.note(f"wrote {len(found):,} texts to {files[0] if len(files) == 1 else out}")
        elif json:
            screen.data({"texts": [item.to_json() for item in found]})
        else:
            show(screen, found)


def show(screen: Screen, texts: "Sequence[Generated]") -> None:
    """The texts as they are; a line of equal signs between two."""
    for number, item in enumerate(texts):
        if number:
            screen.line("=" * 20)
        for line in item.text.split("\n"):
            screen.line(line)
        if item.truncated:
            screen.note("the prompt was longer than the model reads; its beginning was left out")
