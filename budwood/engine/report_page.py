"""The report of a model as one page, `report.html`: what it is, how right it is, where it errs, how it was made.

Pure: facts in, HTML out. The page needs no script and nothing from elsewhere; every text in it is escaped, and
`core/page.py` checks what comes out before a bundle takes it.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from budwood.core.bundle import Draft, Metric
from budwood.core.page import PAGE_END, PAGE_START
from budwood.core.report import ShrinkReport
from budwood.core.task import plain_number
from budwood.engine.card import BESIDE, NAMES, NUMBERS, CardFacts, figure_of, span_of, title_of
from budwood.engine.drawing import Picture, legible
from budwood.engine.report_facts import Mistake, Outcome, Reliability
from budwood.engine.report_plots import HEAT_LABELS, MOST_BARS, Compared
from budwood.engine.risk_facts import tenth_rows
from budwood.engine.shrink_card import class_table, refusals, sentences
from budwood.engine.statistics import TWO_SIDED, wilson, z_value

__all__ = ["report_page"]

MOST_CLASSES = 300
"""Labels that the table of classes lists, the worst first."""
MOST_LABELS = 12
"""Labels that are named at the top."""
DISTANT = "The answers furthest from the truth"


def report_page(
    draft: Draft,
    facts: CardFacts,
    outcome: Outcome,
    compared: Sequence[Compared],
    pictures: Mapping[str, Picture],
) -> str:
    """The whole page. Nothing is read, and no time goes into it: the same facts give the same bytes."""
    parts = [
        ("right", "How right it is", [*metrics(draft, facts), *comparison(draft, compared, pictures)]),
        ("wrong", "Where it errs", [*confusions(outcome, pictures), *numbers(pictures), *classes(facts)]),
        ("groups", "What looks alike to it", [*groups(pictures)]),
        ("sure", "How far its confidence can be trusted", [*calibration(outcome, pictures)]),
        ("errors", DISTANT if outcome.graded else "The worst errors", [*errors(outcome)]),
        ("candidates", "Candidates", [*candidates(facts.shrink, pictures)]),
        ("training", "Training", [*training(pictures)]),
        ("made", "How it was made", [*made(draft, facts)]),
    ]
    shown = [(name, title, body) for name, title, body in parts if body]
    links = "".join(f'<a href="#{name}">{escape(title)}</a>\n' for name, title, _ in shown)
    sections = "".join(
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(title)}</h2>\n{"".join(body)}</section>\n'
        for name, title, body in shown
    )
    return (
        f"{PAGE_START}{HEAD}<title>{escape(facts.name)}: report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n{introduction(draft, facts)}{figures(draft, facts, outcome, compared)}"
        f'<nav aria-label="Contents">\n{links}</nav>\n</header>\n<main>\n{sections}</main>\n'
        f"<footer><p>Made by Budwood. This page holds everything that it shows, and asks no server.</p></footer>\n"
        f"{PAGE_END}"
    )


def introduction(draft: Draft, facts: CardFacts) -> str:
    names = [str(label) for label in (draft.task or {}).get("labels", ())]
    kind = str((draft.task or {}).get("name", "")).replace("_", " ")
    lines = [f"<h1>{escape(facts.name)}</h1>\n", f'<p class="lead">{escape(kind.capitalize())}, made from ']
    lines += [f"{escape(draft.base)}; {facts.size_mb:.1f} MB to serve."]
    if names:
        more = f" and {len(names) - MOST_LABELS} more" if len(names) > MOST_LABELS else ""
        how = "one or several of" if (draft.task or {}).get("multi_label") else "one of"
        what = "finds objects of" if facts.pipeline_tag == "object-detection" else f"gives each input {how}"
        listed = ", ".join(f"<em>{escape(name)}</em>" for name in names[:MOST_LABELS])
        lines += [f" It {what} {len(names)} labels: {listed}{more}."]
    return "".join(lines) + "</p>\n"


def figures(draft: Draft, facts: CardFacts, outcome: Outcome, compared: Sequence[Compared]) -> str:
    """The few numbers that are read first."""
    found: list[tuple[str, str, str]] = []
    if headline := draft.metrics.get(facts.metric):
        found.append((title_of(facts.metric), percent(headline.value), f"{span(headline.ci)} (95 %)"))
    for name in sorted(NUMBERS & facts.further.keys()):
        if isinstance(beside := facts.further[name], Metric):
            found.append((title_of(name), figure_of(name, beside.value), f"{span_of(name, beside.ci)} (95 %)"))
        elif name in BESIDE:
            found.append((title_of(name), figure_of(name, beside), "no interval"))
    if isinstance(split := draft.report.get("split"), str):
        found.append(("Split", split, "how the test rows were set apart"))
    if len(compared) > 1 and (first := compared[0]):
        found.append((first.name, percent(first.value), f"{span(first.ci)} (95 %)"))
    if outcome.after:
        found.append(("Calibration error", percent(outcome.after.ece, 1), f"Brier score {outcome.after.brier:.3f}"))
    if facts.seconds:
        cost = f"{facts.energy.wh:.2f} Wh" if facts.energy.wh else facts.energy.method
        found.append(("Made in", duration(facts.seconds), cost))
    cells = "".join(
        f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd class="quiet">{escape(note)}</dd></div>\n'
        for name, value, note in found
    )
    return f'<dl class="figures">\n{cells}</dl>\n' if cells else ""


def metrics(draft: Draft, facts: CardFacts) -> Iterator[str]:
    found: dict[str, Metric | float] = {**draft.metrics, **facts.further}
    if not found:
        return
    rows = []
    for name, metric in sorted(found.items(), key=lambda item: item[0] != facts.metric):
        if isinstance(metric, Metric):
            rows.append([title_of(name), figure_of(name, metric.value), span_of(name, metric.ci), f"{metric.n:,}"])
        else:
            shown = figure_of(name, metric) if name in NAMES else plain_number(metric)
            rows.append([title_of(name), shown, "", ""])
    yield table(("metric", "value", "95 % interval", "rows"), rows)
    yield (
        '<p class="quiet">On rows that were kept apart from the training. Every answer went through the code that '
        "serves. The intervals cover the luck of the test rows; another training run varies besides.</p>\n"
    )


def comparison(draft: Draft, compared: Sequence[Compared], pictures: Mapping[str, Picture]) -> Iterator[str]:
    verdict = draft.report.get("verdict")
    if len(compared) > 1:
        yield figure(pictures, "compared", f"{compared[0].name} and this model on the same rows.")
    if isinstance(verdict, str) and verdict:
        yield f'<p class="note">{escape(verdict)}</p>\n'


def confusions(outcome: Outcome, pictures: Mapping[str, Picture]) -> Iterator[str]:
    if outcome.confusion is not None and len(outcome.labels) <= HEAT_LABELS:
        text = "Rows by true label (down) and answer (across); the colour is the share of the true label's rows."
        yield figure(pictures, "confusion", text + unwritten(outcome.labels))
    elif outcome.confusion is not None:
        text = f"The up to {MOST_BARS} most frequent confusions, true label → answer: rows, and their share of the "
        yield figure(pictures, "confusion", text + "true label's rows." + unwritten(outcome.labels))
    if "precision" in pictures:
        text = "Precision against recall at an overlap of half or more; the dot is what the model reports."
        yield figure(pictures, "precision", text)
    if "classes" in pictures:
        yield figure(pictures, "classes", "Recall and precision of the labels with the worst recall.")


def unwritten(labels: Sequence[str]) -> str:
    """Which labels the picture calls by a number, because its font lacks their letters."""
    called = [(f"no. {number}", label) for number, label in enumerate(labels, 1)]
    found = [
        f"{name} is {label}" for drawn, (name, label) in zip(legible(labels), called, strict=True) if drawn == name
    ]
    return f" In it, {', '.join(found)}." if found else ""


def numbers(pictures: Mapping[str, Picture]) -> Iterator[str]:
    if "numbers" in pictures:
        yield figure(pictures, "numbers", "Each dot is a test row: its true number, and the model's answer.")


def groups(pictures: Mapping[str, Picture]) -> Iterator[str]:
    if "embedding" in pictures:
        text = (
            "Each dot is a test row, coloured by its true label. Rows that lie together look alike to the network; a "
        )
        yield figure(
            pictures, "embedding", f"{text}dot among another colour is an error of it or of the label (t-SNE)."
        )


def classes(facts: CardFacts) -> Iterator[str]:
    if not facts.classes:
        return
    rows = []
    for item in facts.classes[:MOST_CLASSES]:
        recall = item.recall or 0.0
        bounds = span(wilson(recall, item.n, z_value(tail=TWO_SIDED)))
        precision = "never given" if item.precision is None else percent(item.precision, 1)
        rows.append([item.label, percent(recall, 1), bounds, precision, f"{item.n:,}"])
    body = table(("label", "recall", "95 % interval", "precision", "rows"), rows)
    count = f"{len(rows)} worst of {len(facts.classes)}" if len(facts.classes) > len(rows) else f"all {len(rows)}"
    yield f"<details>\n<summary>Recall and precision of each label: {count}</summary>\n{body}</details>\n"


def calibration(outcome: Outcome, pictures: Mapping[str, Picture]) -> Iterator[str]:
    if outcome.after is None or outcome.before is None:
        return
    text = "Answers by their confidence: how often they are right, and below how many they are. On the dashed line a "
    text += "confidence of 80 % is right in 8 of 10 cases."
    if not outcome.labels:
        text = "Answers by their risk: how often it came true, and below how many they are. On the dashed line a risk "
        text += "of 80 % comes true in 8 of 10 cases."
    yield figure(pictures, "calibration", text)
    rows = [reliability_row("before calibration", outcome.before), reliability_row("as it answers", outcome.after)]
    yield table(
        ("", "expected calibration error", "Brier score"), rows if outcome.before != outcome.after else rows[1:]
    )
    if outcome.tenths:
        yield "<p>The test rows in the order of their risks, in ten equal parts:</p>\n"
        yield table(*tenth_rows(outcome.tenths))


def reliability_row(name: str, found: Reliability) -> list[str]:
    return [name, percent(found.ece), f"{found.brier:.4f}"]


def errors(outcome: Outcome) -> Iterator[str]:
    mistakes = outcome.mistakes
    if not mistakes:
        return
    sure = any(item.confidence is not None for item in mistakes)
    order = "of which the model was surest" if sure else "with the lowest scores"
    told = f"The {len(mistakes)} wrong answers {order}."
    if outcome.graded:
        told = f"{DISTANT}: the largest errors of those above the median, {len(mistakes)} rows."
    yield f"<p>{told} Some are errors of the model, some of the labels.</p>\n"
    yield '<p class="quiet">These are rows of your data: look at them before you hand this page on.</p>\n'
    rows = []
    for item in mistakes:
        cells = [shown_input(item), broken(item.label), f"<strong>{broken(item.answer)}</strong>"]
        rows.append([*cells, percent(item.confidence, 1)] if sure else cells)
    truth = "truth" if outcome.graded else "true label"
    yield raw_table(("input", truth, "answer", *(("confidence",) if sure else ())), rows, "errors")


def broken(label: str) -> str:
    """A label that may be broken after an underscore."""
    return escape(label).replace("_", "_<wbr>")


def shown_input(item: Mistake) -> str:
    if item.drawing:
        return f"{item.drawing}<br>{escape(item.text)}"
    if not item.image:
        return escape(item.text)
    image = f'<img src="data:image/jpeg;base64,{base64.b64encode(item.image).decode()}" alt="the image">'
    return f"{image}{escape(item.text)}"


def candidates(report: ShrinkReport | None, pictures: Mapping[str, Picture]) -> Iterator[str]:
    if report is None:
        return
    yield figure(pictures, "pareto", "Score against latency of the parent and every candidate.")
    headers, rows = report.table()
    yield table(headers, rows)
    yield f"<p>{escape(' '.join(sentences(report)))}</p>\n"
    if refused := refusals(report):
        items = (f"<li>{escape(item.recipe)}: {escape(item.why)}</li>\n" for item in refused)
        yield "<ul>\n" + "".join(items) + "</ul>\n"
    headers, rows = class_table(report.classes)
    if rows:
        yield "<p>What the classes lost and won, where that changed:</p>\n"
        yield table(headers, rows)
    if report.command:
        yield f"<p>Made by <code>{escape(report.command)}</code></p>\n"


def training(pictures: Mapping[str, Picture]) -> Iterator[str]:
    if "training" in pictures:
        text = "Score on held-out rows during the training; what was kept is ringed. Where rows are few, each line is "
        yield figure(pictures, "training", f"{text}one part of a cross-validation.")
    if "learning" in pictures:
        text = "The baseline on growing shares of the rows, and what twice as many are expected to bring."
        yield figure(pictures, "learning", text)


def made(draft: Draft, facts: CardFacts) -> Iterator[str]:
    steps = [
        [str(number), step.name, json.dumps(step.parameters, ensure_ascii=False, default=str)]
        for number, step in enumerate(draft.history, 1)
    ]
    yield table(("", "step", "parameters"), steps)
    rows = [["base", f"{draft.base}, licence {draft.license}"]]
    if draft.data:
        sizes = ", ".join(f"{count:,} {split}" for split, count in draft.data.rows.items())
        rows.append(["data", f"{', '.join(draft.data.sources) or 'rows given in Python'}: {sizes}"])
        rows.append(["fingerprint", f"{draft.data.fingerprint}, split with seed {draft.data.seed}"])
    rows.append(["machine", str(facts.machine.get("cpu", "not recorded"))])
    rows.append(
        ["energy", f"{facts.energy.wh:.3f} Wh, about {facts.energy.grams:.2f} g of CO2 ({facts.energy.method})"]
    )
    yield table(("what", "which"), rows)


def figure(pictures: Mapping[str, Picture], name: str, caption: str) -> str:
    if name not in pictures:
        return ""
    return f'<figure class="{name}">\n{pictures[name].svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>\n'


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return raw_table(headers, [[escape(cell) for cell in row] for row in rows])


def raw_table(headers: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "plain") -> str:
    """A table whose cells are markup already; wide ones scroll by themselves."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in headers)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def percent(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{100 * value:.{digits}f} %"


def span(bounds: tuple[float, float]) -> str:
    return f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


HEAD = """<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
"""

STYLE = """
:root { --ground: #fbfbf8; --card: #ffffff; --ink: #1d2420; --quiet: #5d6761; --line: #dcdfd9; --leaf: #2c6e49;
  --good: #1f8a4c; --wrong: #c4493c; --first: #a8722a; --second: #3d7fc1; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #151a17; --card: #1c231f; --ink: #e6ebe7; --quiet: #9faaa3; --line: #343e38; --leaf: #7fcb9c;
    --good: #4fb87c; --wrong: #e0766a; --first: #d39a4a; --second: #6ea8e0; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
header, main, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 1rem; }
.lead { font-size: 1.1rem; max-width: 50rem; overflow-wrap: anywhere; }
.lead em { font-style: normal; border-bottom: 1px solid var(--line); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1.5rem 0; }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
.figures div:first-child { border-color: var(--leaf); }
.figures div:first-child dd:nth-of-type(1) { color: var(--leaf); }
dt { color: var(--quiet); font-size: .9rem; }
dd { margin: 0; font-size: 1.6rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
dd.quiet { font-size: .85rem; font-weight: normal; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; padding-bottom: .75rem;
  border-bottom: 1px solid var(--line); }
a { color: var(--leaf); }
section { margin: 2.5rem 0; }
.quiet, figcaption, footer { color: var(--quiet); font-size: .9rem; }
.note { border-left: 4px solid var(--leaf); padding-left: 1rem; overflow-wrap: anywhere; }
figure { margin: 1.25rem 0; padding: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 34rem; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { margin-top: .75rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem 1rem .35rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: normal; font-size: .85rem; }
td { overflow-wrap: anywhere; min-width: 4rem; }
.errors { min-width: 40rem; }
.errors td:first-child { width: 46%; }
.errors td { width: 22%; }
.errors td:nth-child(4) { width: 10%; white-space: nowrap; }
img { display: block; border-radius: .25rem; max-width: 100%; height: auto; }
details { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem 1rem; }
summary { cursor: pointer; }
footer { border-top: 1px solid var(--line); padding-bottom: 2rem; }
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
"""
