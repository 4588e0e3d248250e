"""What `predict` shows of a ranked library: the list, and how the screen went."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budwood.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from budwood.engine.screening import Screened

SHOWN_CHARACTERS = 60


def rank(screen: Screen, made: "AbstractContextManager[Screened]", out: Path | None, library: Path | None) -> None:
    """Make the ranking and show it, or write it to a file; then nothing but a summary goes to standard output."""
    from budwood.cli.answers import check_out, write

    if out is not None:
        check_out(out, library)
    with made as found:
        if out is not None:
            write(found.rows, out)
            screen.note(f"wrote the {len(found.rows):,} best to {out}")
        elif screen.as_json:
            for row in found.rows:
                screen.row(row)
        else:
            show(screen, found)
        summary(screen, found)
        if out is not None and screen.as_json:
            screen.data(facts(found, out))


def show(screen: Screen, found: "Screened") -> None:
    """A line a molecule, the best first."""
    headers = ["rank", "value", "±", "similarity", "domain", "name", "SMILES"]
    rows = [line(row) for row in found.rows]
    named = any(row["name"] for row in found.rows)
    keep = [number for number, header in enumerate(headers) if named or header != "name"]
    screen.table([headers[i] for i in keep], [[cells[i] for i in keep] for cells in rows])


def line(row: "Mapping[str, Any]") -> list[str]:
    domain = "" if "in_domain" not in row else ("inside" if row["in_domain"] else "outside")
    similarity = row.get("similarity")
    return [
        f"{row['rank']:,}",
        f"{row['value']:.4g}",
        f"{row['uncertainty']:.2g}",
        "" if similarity is None else f"{similarity:.2f}",
        "in training" if row.get("in_training") else domain,
        shortened(row["name"]),
        shortened(row["smiles"]),
    ]


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def summary(screen: Screen, found: "Screened") -> None:
    rate = found.screened / max(found.seconds, 0.01)
    screen.note(f"screened={found.screened:,} rows  # {found.seconds:,.1f} s, {rate:,.0f} a second")
    if found.resumed_at:
        screen.note(f"resumed={found.resumed_at:,} rows  # an earlier run had done them")
    if found.invalid:
        screen.note(f"left out={found.invalid:,} rows  # no molecule that the model can read")
    if found.repeated:
        screen.note(f"repeated={found.repeated:,} rows  # molecules of the list in another spelling")
    outside = sum(row.get("in_domain") is False for row in found.rows)
    if outside:
        screen.note(f"outside={outside:,} of the list  # unlike the training molecules: trust these values less")
    if found.enrichment:
        screen.note(enrichment(found.enrichment))
    learnt = sum(bool(row.get("in_training")) for row in found.rows)
    if learnt:
        flatters = ", which flatters the enrichment" if found.enrichment else ""
        screen.note(f"in training={learnt:,} of the list  # the model has learnt from these very molecules{flatters}")


def enrichment(facts: "Mapping[str, float]") -> str:
    known = f"{facts['actives']:,.0f} actives among {facts['labelled']:,.0f} labelled molecules"
    if "ef1" not in facts:
        return f"enrichment=none  # {known}: it needs both kinds"
    values = f"EF1% {facts['ef1']:.1f}, BEDROC {facts['bedroc']:.3f}, ROC AUC {facts['roc_auc']:.3f}"
    return f"enrichment={values}  # {known}"


def facts(found: "Screened", out: Path) -> dict[str, Any]:
    """The summary as JSON."""
    values: dict[str, Any] = {name: value for name, value in vars(found).items() if name != "rows"}
    return {"out": out, "rows": len(found.rows), **values}
