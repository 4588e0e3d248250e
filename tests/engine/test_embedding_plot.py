"""The plot of embeddings: clusters stay apart, a seed gives one picture, and odd inputs are drawn or left."""

import numpy as np
import pytest
import tiny

from budwood.core.bundle import Bundle
from budwood.engine import embedding_plot
from budwood.engine.embedding_plot import embedding_picture, project
from budwood.engine.predictor import Predictor

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


def clusters(n: int = 60, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return 8 * random.normal(size=(3, width))[labels] + random.normal(size=(n, width)), labels


def test_clusters_stay_together_and_apart_and_the_seed_decides() -> None:
    values, labels = clusters()
    places = project(values, 0)
    assert places.shape == (60, 2)
    assert np.isfinite(places).all()
    centres = np.stack([places[labels == label].mean(axis=0) for label in range(3)])
    nearest = np.linalg.norm(places[:, None] - centres[None], axis=2).argmin(axis=1)
    assert (nearest == labels).all()
    assert np.array_equal(places, project(values, 0))


@pytest.mark.parametrize("width", [1, 2, 5])
def test_few_or_equal_columns_and_rows_are_no_error(width: int) -> None:
    assert project(np.ones((12, width)), 0).shape == (12, 2)
    values = np.random.default_rng(0).normal(size=(12, width))
    assert np.isfinite(project(values, 0)).all()


class Fixed:
    """A predictor whose embedding and answers are given."""

    calibration: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, task, outputs):
        self.task, self.given, self.asked = task, outputs, []

    def outputs(self, rows):
        self.asked.append(len(rows))
        return {name: values[: len(rows)] for name, values in self.given.items()}


def fixed(n: int) -> tuple[Fixed, list[dict[str, str]]]:
    from budwood.tasks.text_classification import TextClassification

    values, labels = clusters(n)
    names = ("a", "b", "c")
    rows = [{"text": f"text {i}", "label": names[label]} for i, label in enumerate(labels)]
    logits = np.eye(3)[labels] * 4
    logits[:5] = np.roll(logits[:5], 1, axis=1)
    return Fixed(TextClassification(names), {"logits": logits, "embedding": values}), rows


def test_the_picture_names_the_labels_and_rings_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, rows = fixed(60)
    drawn = []
    original = embedding_plot.draw
    monkeypatch.setattr(embedding_plot, "draw", lambda *given: drawn.append(given) or original(*given))
    picture = embedding_picture(predictor, rows, 0)
    assert picture is not None
    assert picture.png.startswith(b"\x89PNG")
    assert picture.svg.startswith("<svg")
    ((_, labels, right),) = drawn
    assert labels == [row["label"] for row in rows]
    assert np.flatnonzero(~right).tolist() == [0, 1, 2, 3, 4]
    assert picture.svg == embedding_picture(predictor, rows, 0).svg


def test_of_many_rows_a_draw_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_plot, "MOST_ROWS", 40)
    predictor, rows = fixed(60)
    assert embedding_picture(predictor, rows, 0) is not None
    assert predictor.asked == [40]


def test_more_labels_than_colours_share_a_grey() -> None:
    labels = [f"class {i % 14}" for i in range(56)]
    places = np.random.default_rng(0).normal(size=(56, 2))
    figure = embedding_plot.draw(places, labels, np.ones(56, bool))
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names[0] == "4 others"
    assert len(names) == 11


def test_nothing_is_drawn_without_an_embedding_a_single_label_or_enough_rows(tiny_bundle: Bundle) -> None:
    predictor, rows = fixed(60)
    assert embedding_picture(predictor, rows[:9], 0) is None
    assert embedding_picture(predictor, [{**row, "label": ["a"]} for row in rows], 0) is None
    del predictor.given["embedding"]
    assert embedding_picture(predictor, rows, 0) is None
    real = Predictor.open(tiny_bundle)
    assert embedding_picture(real, tiny.rows(2), 0) is None
    real.close()
