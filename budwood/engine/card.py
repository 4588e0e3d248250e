"""The model card, `README.md` of a bundle: front matter for the Hugging Face Hub, then what was done and measured.

Labels, file names and licences are foreign text: every one of them is escaped for YAML or for Markdown.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from budwood.core.bundle import Draft, Metric
from budwood.core.report import ShrinkReport
from budwood.core.task import plain_number
from budwood.engine.box_answers import OVERLAP, SAME_PLACE
from budwood.engine.machine import Energy
from budwood.engine.markup import code, fenced, markdown_table, text, yaml
from budwood.engine.risk_calibration import unfitted
from budwood.engine.shrink_card import shrink_section
from budwood.engine.snippets import BOXES, ONNX, PIPELINES, TORCH

__all__ = [
    "BESIDE",
    "NAMES",
    "NUMBERS",
    "CardFacts",
    "ClassFacts",
    "figure_of",
    "model_card",
    "span_of",
    "title_of",
]

WORST = 10
"""Classes that the card lists."""
NAMES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "samples_f1": "F1 per row",
    "worst_class_recall": "Recall, worst",
    "roc_auc": "ROC AUC",
    "rmse": "RMSE",
    "mae": "Mean absolute error",
    "mape": "Mean absolute percentage error",
    "coverage_90": "True values within the 90 % interval",
    "average_precision": "Average precision",
    "brier": "Brier score",
    "ece": "Calibration error",
    "1-brier": "1 − Brier score",
    "1-nmae": "1 − error by range",
    "c_index": "C index",
    "r2": "R²",
    "spearman": "Rank correlation",
    "perplexity": "Perplexity",
    "token_probability": "Token probability",
    "f1": "F1 per image",
    "precision": "Precision",
    "recall": "Recall",
    "ap50": "AP50",
    "ap": "AP50:95",
}
BESIDE = ("roc_auc", "rmse")
"""What is printed beside the headline metric even where rows are too few for an interval."""
WITHOUT_INTERVAL = frozenset({"ap50", "ap", "macro_f1", *BESIDE})
"""What is listed without an interval too, because rows may be too few for one, or resamples all agree."""
NUMBERS = frozenset({"roc_auc", "rmse", "mae", "brier", "c_index", "r2", "spearman", "perplexity", "ap50", "ap"})
"""Metrics that people write as plain numbers; the others with an interval are shares."""


@dataclass(frozen=True)
class ClassFacts:
    """How right a model is on one class: `recall` and `precision` in [0, 1] (None: nothing to divide by), and rows."""

    label: str
    recall: float | None
    precision: float | None
    n: int


@dataclass(frozen=True)
class CardFacts:
    """What the card tells beside the draft."""

    name: str
    """The model's name in the store."""
    metric: str
    """The headline metric: a key of the draft's `metrics`."""
    pipeline_tag: str
    formats: frozenset[str]
    """The formats that the bundle has: `torch`, `onnx`, `onnx-int8`."""
    size_mb: float
    classes: Sequence[ClassFacts] = ()
    energy: Energy = field(default=Energy(0.0, "not measured"))
    seconds: float = 0.0
    machine: Mapping[str, Any] = field(default_factory=dict)
    pooling: str | None = None
    """How a text encoder's token states become one; None for a model that has none."""
    normalize: bool = False
    cut: bool = False
    """Whether channels were cut, so that transformers alone does not load the folder."""
    packed: bool = False
    """Whether the graph is packed, so that only Budwood reads it."""
    shrink: ShrinkReport | None = None
    further: Mapping[str, Metric | float] = field(default_factory=dict)
    """Metrics beside those of the draft, with an interval where one is known."""
    pictures: Mapping[str, str] = field(default_factory=dict)
    """What stands for each picture of the report where it is not shown, by its file name in the bundle."""


def model_card(draft: Draft, facts: CardFacts) -> str:
    """The whole card, as Markdown with YAML front matter. Pure text: nothing is read, and no time goes into it."""
    sections = [
        front_matter(draft, facts),
        introduction(draft, facts),
        how_it_was_made(draft, facts),
        how_it_was_measured(draft, facts),
        pictures_section(facts.pictures),
        class_section(facts.classes),
        shrink_section(facts.shrink),
        usage(facts),
    ]
    return "\n".join(section for section in sections if section)


def title_of(metric: str) -> str:
    """A metric's name as people write it."""
    first, _, label = metric.partition(" ")
    if label and first in NAMES:  # of one label alone
        return f"{NAMES[first]}, {label}"
    return NAMES.get(metric, metric.replace("_", " "))


def figure_of(metric: str, value: float) -> str:
    """A metric's value as people write it: 91.00 %, or 0.854."""
    if metric.partition(" ")[0] not in NUMBERS:
        return f"{100 * value:.2f} %"
    return f"{value:.3f}" if abs(value) < 1000 else plain_number(value)


def span_of(metric: str, bounds: tuple[float, float]) -> str:
    low, high = (figure_of(metric, bound).removesuffix(" %") for bound in bounds)
    return f"{low} to {high}"


def front_matter(draft: Draft, facts: CardFacts) -> str:
    quantized = any(step.name.startswith("shrink.quantize") for step in draft.history)
    fields: dict[str, Any] = {
        "license": draft.license,
        "library_name": "transformers" if "torch" in facts.formats else "onnx",
        "pipeline_tag": facts.pipeline_tag,
        "base_model": draft.base,
        "base_model_relation": "quantized" if quantized else "finetune",
        "tags": ["budwood", *sorted(facts.formats)],
        "datasets": [dataset_name(draft)],
        "metrics": sorted(draft.metrics),
        "co2_eq_emissions": {
            "emissions": round(facts.energy.grams, 4),
            "source": f"{facts.energy.method}; {facts.energy.grams_per_kwh:.0f} g per kWh, {facts.energy.grid}",
            "training_type": "fine-tuning",
            "geographical_location": facts.energy.country or "not recorded",
            "hardware_used": str(facts.machine.get("cpu", "not recorded")),
        },
        "model-index": [{"name": facts.name, "results": [result(draft, facts)]}],
    }
    return f"---\n{yaml(fields)}---\n"


def result(draft: Draft, facts: CardFacts) -> dict[str, Any]:
    split = next((metric.split for metric in draft.metrics.values()), "test")
    return {
        "task": {"type": facts.pipeline_tag, "name": facts.pipeline_tag.replace("-", " ")},
        "dataset": {"type": dataset_name(draft), "name": "private data", "split": split},
        "metrics": [
            {"type": name, "name": NAMES.get(name, name), "value": round(metric.value, 6)}
            for name, metric in sorted(draft.metrics.items())
        ],
    }


def dataset_name(draft: Draft) -> str:
    """Private data have no name on the Hub; their fingerprint tells whether two cards speak of the same rows."""
    return f"private-{draft.data.fingerprint[:16]}" if draft.data else "private-not-recorded"


def introduction(draft: Draft, facts: CardFacts) -> str:
    labels = [str(label) for label in (draft.task or {}).get("labels", [])]
    shown = ", ".join(text(label) for label in labels[:20]) + (
        f" and {len(labels) - 20} more" if len(labels) > 20 else ""
    )
    kind = "one or several of" if (draft.task or {}).get("multi_label") else "one of"
    lines = [
        f"# {text(facts.name)}",
        "",
        f"Made with Budwood from {text(draft.base)}: {facts.size_mb:.1f} MB to serve.",
    ]
    if labels:
        finds = facts.pipeline_tag == "object-detection"
        lines.append(f"It {'finds objects of' if finds else f'gives each input {kind}'} {len(labels)} labels: {shown}.")
    headline = draft.metrics.get(facts.metric)
    if headline:
        lines += ["", f"**{NAMES.get(facts.metric, text(facts.metric))}: {spell(headline)}{split_of(draft)}.**"]
        for name, found in facts.further.items():
            if isinstance(found, Metric) and name in NUMBERS:
                shown = figure_of(name, found.value)
                lines.append(f"{NAMES[name]}: {shown} (95 % interval {span_of(name, found.ci)}).")
            elif not isinstance(found, Metric) and name in BESIDE:
                lines.append(f"{NAMES[name]}: {figure_of(name, found)}, without an interval.")
    return "\n".join(lines) + "\n"


def split_of(draft: Draft) -> str:
    """How the test rows were set apart, where the score means little without it."""
    kind = draft.report.get("split")
    return f"; split: {text(kind)}" if isinstance(kind, str) else ""


def spell(metric: Metric) -> str:
    low, high = (100 * bound for bound in metric.ci)
    value = f"{100 * metric.value:.2f} % (95 % interval {low:.2f} to {high:.2f})"
    return f"{value} on {metric.n:,} rows of the {text(metric.split)} split"


def how_it_was_made(draft: Draft, facts: CardFacts) -> str:
    rows = [
        [str(number), text(step.name), code(json.dumps(step.parameters, ensure_ascii=False, default=str))]
        for number, step in enumerate(draft.history, 1)
    ]
    lines = ["## How it was made", "", *markdown_table(["", "step", "parameters"], rows), ""]
    if draft.data:
        sources = ", ".join(text(source) for source in draft.data.sources) or "rows given in Python"
        sizes = ", ".join(f"{count:,} {text(split)}" for split, count in draft.data.rows.items())
        lines.append(f"Data: {sources}; rows: {sizes}; split with seed {draft.data.seed};")
        lines.append(f"fingerprint of the rows {code(draft.data.fingerprint)}.")
    cost = f"This stage took {facts.seconds:,.0f} s and {facts.energy.wh:.3f} Wh ({text(facts.energy.method)})"
    lines.append(f"{cost} on {text(str(facts.machine.get('cpu', 'a machine that was not recorded')))}.")
    lines += verdict_lines(draft)
    return "\n".join(lines) + "\n"


def verdict_lines(draft: Draft) -> list[str]:
    """The baseline and the verdict, where the step has compared them."""
    lines = []
    baseline, verdict = draft.report.get("baseline"), draft.report.get("verdict")
    if isinstance(baseline, Mapping) and isinstance(baseline.get("score"), float):
        method = text(str(baseline.get("method", "baseline")))
        lines.append(f"The baseline ({method}) scores {100 * baseline['score']:.2f} % on the same rows.")
    if isinstance(verdict, str):
        lines.append(text(verdict))
    return lines


def how_it_was_measured(draft: Draft, facts: CardFacts) -> str:
    lines = ["## How it was measured", ""]
    rows = []
    known = {name: metric for name, metric in facts.further.items() if isinstance(metric, Metric)} | draft.metrics
    for name, metric in sorted(known.items(), key=lambda item: item[0] != facts.metric):
        label = text(title_of(name))
        figures = figure_of(name, metric.value), span_of(name, metric.ci)
        rows.append([label, *figures, f"{metric.n:,}", text(metric.split)])
    if headline := draft.metrics.get(facts.metric):
        for name, value in facts.further.items():
            if name.partition(" ")[0] in WITHOUT_INTERVAL and not isinstance(value, Metric):
                rows.append([text(title_of(name)), figure_of(name, value), "", f"{headline.n:,}", text(headline.split)])
    if rows:
        lines += [*markdown_table(["metric", "value", "95 % interval", "rows", "split"], rows), ""]
    lines.append("Every answer went through the code that serves. The rows were kept apart from those of the training.")
    if draft.data and draft.data.options.group:
        lines.append(
            f"Rows of one {code(draft.data.options.group)} stand on one side of the split. Intervals and p values"
        )
        lines.append("take rows as independent all the same: where those of a group are alike, the truth is less sure.")
    if draft.calibration.get("temperature") == 1:
        lines.append("Probabilities are as the network gives them, and no temperature was fitted: fewer than 20 rows")
        lines.append("were left out, or it did not make them more honest.")
    elif "temperature" in draft.calibration:
        fitted = f"with temperature {draft.calibration['temperature']:.3f}, fitted on validation rows"
        lines.append(f"Probabilities are calibrated {fitted} (Guo et al. 2017).")
    if unfitted(draft.calibration):
        lines.append("Risks are as the network gives them: the rows that were left out gave no calibration.")
    elif {"slope", "offset"} <= draft.calibration.keys():
        fitted = f"slope {draft.calibration['slope']:.3f} and offset {draft.calibration['offset']:.3f} of the logit"
        lines.append(f"Risks are calibrated with {fitted}, fitted on rows that were left out (Platt 1999).")
    if "half_90" in draft.calibration:
        lines.append("Intervals are meant to hold 9 of 10 true values (split-conformal: Lei et al. 2018). Their width")
        lines.append("is that of errors on rows that were left out, the same for all rows on the scale that is learnt.")
    lines.append("The interval covers the luck of the test rows; another training run varies besides.")
    return "\n".join(lines) + "\n"


def pictures_section(pictures: Mapping[str, str]) -> str:
    if not pictures:
        return ""
    shown = [f"![{text(title)}]({file})" for file, title in pictures.items()]
    lead = "With the worst errors, and the intervals of every label, in one page: [report.html](report.html)."
    return "\n\n".join(["## Report", lead, *shown]) + "\n"


def class_section(classes: Sequence[ClassFacts]) -> str:
    if not classes:
        return ""
    rows = [
        [text(item.label), percent(item.recall), percent(item.precision), f"{item.n:,}"] for item in classes[:WORST]
    ]
    title = (
        f"## The {len(rows)} worst of {len(classes)} classes" if len(classes) > WORST else "## Classes, the worst first"
    )
    return "\n".join([title, "", *markdown_table(["class", "recall", "precision", "rows"], rows)]) + "\n"


def percent(value: float | None) -> str:
    return "never given" if value is None else f"{100 * value:.1f} %"


EXAMPLES = {
    "text-classification": ("'a text'", "table.csv"),
    "text-generation": ("'Once upon a time'", "texts.txt"),
    "image-classification": ("photo.jpg", "folder/"),
    "object-detection": ("photo.jpg", "folder/"),
    "image-feature-extraction": ("photo.jpg", "table.csv"),
}
"""What a command line names, by pipeline tag: an input, and labelled data."""


def usage(facts: CardFacts) -> str:
    name = facts.name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", facts.name) else "NAME"
    one, data = EXAMPLES.get(facts.pipeline_tag, ("INPUT", "table.csv"))
    ask = "generate" if facts.pipeline_tag == "text-generation" else "predict"
    commands = [f"budwood {ask} {name} {one}", f"budwood evaluate {name} {data}", f"budwood serve {name}"]
    return "\n".join(["## How to use it", "", *fenced("\n".join(commands), "sh"), "", *without_budwood(facts)]) + "\n"


def without_budwood(facts: CardFacts) -> list[str]:
    """A program that uses the folder alone, where there is one for this kind of model."""
    if facts.cut or facts.packed:
        return [CUT if facts.cut else PACKED]
    if "torch" in facts.formats and facts.pooling is not None:
        program = TORCH[facts.pooling].format(normalize=NORMALIZE if facts.normalize else "")
        return ["Without Budwood, in this folder, with torch and transformers:", "", *fenced(program, "python")]
    if "torch" in facts.formats and facts.pipeline_tag in PIPELINES:
        program = PIPELINES[facts.pipeline_tag]
        needs = "torch, transformers and pillow" if "PIL" in program else "torch and transformers"
        return [f"Without Budwood, in this folder, with {needs}:", "", *fenced(program, "python")]
    if facts.pipeline_tag == "object-detection":
        program = BOXES.replace("OVERLAP", f"{OVERLAP:g}").replace("SAME_PLACE", f"{SAME_PLACE:g}")
        needs = "onnxruntime, numpy and pillow"
        return [f"Without Budwood, in this folder, with {needs}:", "", *fenced(program, "python"), "", BACKBONE]
    if facts.pipeline_tag == "text-classification":
        program = ONNX.format(graph="onnx/model_quantized.onnx" if "onnx-int8" in facts.formats else "onnx/model.onnx")
        return ["Without Budwood, in this folder, with onnxruntime and tokenizers:", "", *fenced(program, "python")]
    return []


BACKBONE = (
    "For further training `AutoModelForObjectDetection` loads the folder, or `AutoModel` the backbone where "
    "`detector.safetensors` holds the head."
)
CUT = (
    "Channels of this network were cut, and no configuration describes its shapes: `cuts.json` lists what each module "
    "keeps. Budwood rebuilds the module from `config.json` and that list; transformers alone refuses the weights. The "
    "ONNX graph, where there is one, needs neither."
)
PACKED = (
    "The ONNX graph is packed: zeros are left out, values are shared, and Huffman codes make the file small. Budwood "
    "expands it when it loads. For other programs: `budwood export NAME --format unpacked`."
)
NORMALIZE = "embedding = torch.nn.functional.normalize(embedding, dim=-1)\n"
