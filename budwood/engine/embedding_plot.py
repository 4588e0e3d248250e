"""Where a network puts the test rows: its embeddings in two dimensions, coloured by label, for the report.

By t-SNE (van der Maaten and Hinton 2008) after a principal component analysis. Import only where matplotlib and
scikit-learn are installed; both come with the extra train.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from budwood.core.errors import require
from budwood.core.task import Row, Task
from budwood.engine.drawing import Picture, finish, legend, legible, one_plot
from budwood.engine.plot import ON_WHITE, STYLE
from budwood.engine.predictor import Predictor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_ROWS", "NAME", "embedding_picture", "project"]

NAME = "embedding"
LEAST_ROWS = 10
"""With fewer rows there is nothing to see."""
MOST_ROWS = 1000
"""Rows that are drawn, a random draw of more: some seconds of work, and a page that stays small."""
COMPONENTS = 50
PERPLEXITY = 30.0
ROUNDS = 500
COLORS = (
    *("#3d7fc1", "#c4493c", "#1f8a4c", "#d08a2a", "#8457b8"),
    *("#d0609f", "#2f9fae", "#8a8f1f", "#8c5a3c", "#6fae3a"),
)
"""Mid tones that can be told apart on white and on near-black."""
OTHER = "#858a91"


def embedding_picture(predictor: Predictor, rows: Sequence[Row], seed: int) -> Picture | None:
    """The picture of labelled rows; None where the task has no single label, or the graph gives no embedding."""
    if not suits(predictor.task, rows):
        return None
    chosen = list(rows)
    if len(chosen) > MOST_ROWS:
        kept = np.random.default_rng(seed).permutation(len(chosen))[:MOST_ROWS]
        chosen = [chosen[i] for i in np.sort(kept)]
    outputs = predictor.outputs(chosen)
    if "embedding" not in outputs or outputs["embedding"].ndim != 2:
        return None
    answers = predictor.task.decode(outputs, predictor.calibration, 1)
    right = np.asarray([answer["label"] == row["label"] for answer, row in zip(answers, chosen, strict=True)])
    places = project(outputs["embedding"], seed)
    with require("matplotlib", extra="train").rc_context(STYLE):
        figure = draw(places, [str(row["label"]) for row in chosen], right)
        return finish(NAME, "where the network puts the test rows", figure)


def suits(task: Task, rows: Sequence[Row]) -> bool:
    """Whether each row has one label, and the task answers with one."""
    return task.self_trains and len(rows) >= LEAST_ROWS and all(isinstance(row.get("label"), str) for row in rows)


def project(embeddings: NDArray[Any], seed: int) -> NDArray[np.float64]:
    """Two coordinates for each row of (rows, width), the same for the same seed on the same machine.

    Rows that lie together were alike to the network; distances between clusters and their sizes mean little.
    """
    decomposition, manifold = (require(f"sklearn.{name}", extra="train") for name in ("decomposition", "manifold"))
    values = np.asarray(embeddings, np.float64)
    spread = values.std(axis=0)
    values = values[:, spread > 1e-9 * max(float(spread.max()), 1e-30)]
    if values.shape[1] < 2:  # all rows are the same to the network, or differ in one number
        return np.column_stack([values[:, 0] if values.shape[1] else np.zeros(len(values)), np.zeros(len(values))])
    width = min(COMPONENTS, len(values) - 1, values.shape[1])
    values = decomposition.PCA(width, random_state=seed, svd_solver="full").fit_transform(values)
    perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
    scaled = values / max(float(values[:, 0].std()), 1e-12)
    model = manifold.TSNE(
        2, perplexity=perplexity, init=scaled[:, :2] * 1e-4, max_iter=ROUNDS, random_state=seed, learning_rate="auto"
    )
    # One thread: several get in each other's way on so few rows, ten times over where the machine is busy.
    with require("threadpoolctl", extra="train").threadpool_limits(limits=1):
        return np.asarray(model.fit_transform(values), np.float64)


def draw(places: NDArray[np.float64], labels: Sequence[str], right: NDArray[np.bool_]) -> "Figure":
    """Dots by label, the most frequent ten in colours of their own; wrong answers are ringed."""
    figure, axes = one_plot(4.6, 0.3, 0.2, right=2.6, top=0.1)
    named = [name for name, _ in Counter(labels).most_common(len(COLORS))]
    truth = np.asarray(labels)
    rest = ~np.isin(truth, named)
    size = 5.0 if len(labels) <= 300 else 3.5
    if rest.any():
        count = len(set(truth[rest].tolist()))
        axes.plot(
            *places[rest].T, "o", color=OTHER, markersize=size, alpha=0.5, markeredgewidth=0, label=f"{count} others"
        )
    for color, name, shown in zip(COLORS, named, legible(named), strict=False):
        axes.plot(
            *places[truth == name].T, "o", color=color, markersize=size, alpha=0.75, markeredgewidth=0, label=shown
        )
    if (~right).any():
        axes.plot(
            *places[~right].T,
            "o",
            color=ON_WHITE.text,
            markersize=size + 4,
            fillstyle="none",
            markeredgewidth=0.8,
            label="answered wrongly",
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    legend(axes, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return figure
