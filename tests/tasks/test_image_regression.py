"""Image regression: what labels are told to be, answers, scores, losses, and a hidden layer before the output."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pictures
import pytest

from budwood.core.errors import BundleError, DataError, UsageError
from budwood.engine.images import plain_png
from budwood.tasks.image_regression import ImageRegression

IMAGE = plain_png((90, 80, 70))


def rows(labels: list[Any]) -> list[dict[str, Any]]:
    return [{"image": IMAGE, "sha256": str(number), "label": label} for number, label in enumerate(labels)]


def prices(count: int = 100) -> list[str]:
    return [f"{value:.0f}" for value in np.exp(np.random.default_rng(0).normal(12, 0.8, count))]


TIMES = rows([{"days": str(10 + number), "died": "yes" if number % 2 else "no"} for number in range(60)])
NUMBER = ImageRegression.from_rows(rows(prices()))
RISK = ImageRegression.from_rows(rows(["yes"] * 20 + ["no"] * 60))
TIME = ImageRegression.from_rows(TIMES)


def test_labels_tell_the_kind():
    assert (NUMBER.kind, RISK.kind, TIME.kind) == ("number", "risk", "survival")
    assert NUMBER.log
    assert not ImageRegression.from_rows(rows([f"{v:.2f}" for v in np.linspace(-3, 5, 50)])).log
    assert RISK.outcomes == ("no", "yes")
    assert RISK.share == 0.25
    assert TIME.columns == ("days", "died")
    assert len(TIME.periods) == 10


@pytest.mark.parametrize(
    ("labels", "outcomes"),
    [
        (["0", "1"], ("0", "1")),
        (["true", "false"], ("false", "true")),
        (["normal", "pneumonia"], ("normal", "pneumonia")),
        (["abnormal", "normal"], ("normal", "abnormal")),
        (["disease", "healthy"], ("healthy", "disease")),
        (["1", "2"], ("1", "2")),
        (["9", "10"], ("9", "10")),
        (["-1", "1.0"], ("-1", "1")),
        (["dead", "living"], ("living", "dead")),
        (["event", "none"], ("none", "event")),
        (["relapse", "no relapse"], ("no relapse", "relapse")),
        (["control", "case"], ("control", "case")),
        (["survived", "died"], ("survived", "died")),
    ],
)
def test_what_happens_is_told_from_what_does_not(labels: list[str], outcomes: tuple[str, str]):
    assert ImageRegression.from_rows(rows(labels * 4)).outcomes == outcomes


def test_where_the_words_do_not_tell_what_happens_it_is_said():
    told, guessed = (
        ImageRegression.from_rows(rows(labels * 4)).notes()[0] for labels in (["1", "2"], ["left", "right"])
    )
    assert told == "risk=of '2' against '1'  # the other: --positive '1'"
    assert guessed.startswith("risk=of 'right' against 'left'  # neither word says")
    assert guessed.endswith("--positive 'left'")


def test_the_outcome_may_be_written_in_another_way():
    numbers = ImageRegression.from_rows(rows(["0", "1"] * 20))
    assert numbers.with_options({"positive": "1.0"}) == numbers
    assert numbers.with_options({"positive": 0}).outcomes == ("1", "0")


def test_the_other_outcome_of_times_has_periods_and_a_horizon_of_its_own():
    early = [{"days": str(10 + number), "end": "died"} for number in range(40)]
    late = [{"days": str(500 + number), "end": "moved"} for number in range(40)]
    made = rows(early + late)
    died, moved = (ImageRegression.described(made, {"positive": end}) for end in ("died", "moved"))
    assert (died.outcomes[1], moved.outcomes[1]) == ("died", "moved")
    assert max(died.periods) < 50 < 500 <= min(moved.periods)
    assert moved.horizon in moved.periods
    assert np.nansum(moved.targets(made)) == 40, "each of them is seen to move in one of its periods"
    assert ImageRegression.described(made, {"positive": "moved", "horizon": 510}).horizon == 510
    with pytest.raises(UsageError, match="at most 49"):
        ImageRegression.described(made, {"positive": "died", "horizon": 510})


def test_the_other_outcome_can_be_named():
    turned = RISK.with_options({"positive": "no"})
    assert turned.outcomes == ("yes", "no")
    assert turned.share == 0.75


@pytest.mark.parametrize(
    ("labels", "fits"),
    [
        (prices(), 0.9),
        ([f"{value:.1f}" for value in np.linspace(0, 2, 50)], 0.9),
        (["yes", "no"] * 40, 0.1),
        (["1", "2", "3", "4", "5"] * 20, 0.1),
        ([{"days": "3", "died": "1"}], 0.9),
    ],
)
def test_numbers_with_many_values_are_taken_and_classes_left(labels: list[Any], fits: float):
    assert ImageRegression.suits(rows(labels)) == fits


@pytest.mark.parametrize("task", [NUMBER, RISK, TIME])
def test_every_kind_goes_through_json(task: ImageRegression):
    assert ImageRegression.from_json(task.to_json()) == task


@pytest.mark.parametrize(
    "change",
    [{"kind": "boxes"}, {"scale": 0}, {"scale": float("nan")}, {"flip": "yes"}, {"colour": 1}, {"span": [1]}],
)
def test_fields_that_are_off_are_refused(change: Mapping[str, Any]):
    with pytest.raises(BundleError):
        ImageRegression.from_json({**NUMBER.to_json(), **change})


def test_a_number_comes_back_from_the_networks_scale():
    task, labels = NUMBER, rows(prices())
    logits = task.targets(labels)
    answers = task.decode({"logits": logits}, {"half_90": 1.0, "edge_1": 5e4, "edge_2": 1e5, "edge_3": 2e5}, 3)
    assert [answer["value"] for answer in answers] == pytest.approx([float(row["label"]) for row in labels], rel=1e-4)
    ratio = [answer["interval"][1] / answer["value"] for answer in answers]
    assert ratio == pytest.approx([np.exp(task.scale)] * len(labels), rel=1e-3), "the same factor for all"
    assert answers[0]["bin"] in ("very low", "low", "high", "very high")
    assert task.row_scores(answers, labels) == pytest.approx(np.ones(len(labels)), abs=1e-4)
    assert task.metrics(answers, labels)["coverage_90"] == 1.0


def test_absurd_outputs_stay_finite():
    answers = NUMBER.decode({"logits": np.asarray([[1e6], [-1e6]], np.float32)}, {"half_90": 1.0}, 3)
    assert all(np.isfinite([answer["value"], *answer["interval"]]).all() for answer in answers)


def test_a_risk_is_scored_by_its_squared_error():
    labels = rows(["yes", "no"])
    answers = RISK.decode({"logits": np.zeros((2, 1), np.float32)}, {"slope": 1.0, "offset": np.log(3)}, 3)
    assert [answer["value"] for answer in answers] == pytest.approx([0.75, 0.75])
    assert RISK.row_scores(answers, labels) == pytest.approx([1 - 0.0625, 1 - 0.5625])
    chances = RISK.chances(answers, labels)
    assert chances is not None
    assert chances.tolist() == [[0.75, 1.0], [0.75, 0.0]]


def test_times_of_which_none_is_known_at_the_horizon_give_no_chances():
    labels = rows([{"days": "3", "died": "no"}] * 2)
    answers = TIME.decode({"logits": np.zeros((2, len(TIME.periods)), np.float32)}, {}, 3)
    assert TIME.chances(answers, labels) is None
    assert "brier" not in TIME.metrics(answers, labels)


@pytest.mark.parametrize("edges", ["nan", "inf", "1,inf", "-inf,3", "", "1,1"])
def test_bins_end_at_rising_finite_numbers(edges: str):
    with pytest.raises(UsageError, match="rising numbers"):
        NUMBER.with_options({"bins": edges})


def test_a_label_that_is_not_known_is_named():
    for task, label in ((NUMBER, "dear"), (RISK, "perhaps"), (TIME, "12")):
        with pytest.raises(DataError):
            task.targets(rows([label]))


def test_calibration_is_that_of_each_kind():
    random = np.random.default_rng(0)
    for task, labels in ((NUMBER, rows(prices())), (RISK, rows(["yes"] * 40 + ["no"] * 60)), (TIME, TIMES)):
        targets = task.targets(labels)
        noise = random.normal(0, 1, targets.shape)
        fitted = task.calibrate((np.nan_to_num(targets) + noise).astype(np.float32), targets)
        assert {"edge_1", "edge_4"} <= set(fitted)
        assert ("half_90" in fitted) == (task is NUMBER)


def test_losses_have_gradients_and_leave_out_what_was_not_seen():
    torch = pytest.importorskip("torch")
    for task, labels in ((NUMBER, rows(prices(8))), (RISK, rows(["yes", "no"] * 4)), (TIME, TIMES[:8])):
        targets = torch.from_numpy(task.targets(labels))
        logits = torch.zeros(targets.shape, requires_grad=True)
        loss = task.loss({"logits": logits}, targets)
        loss.backward()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.equal(logits.grad == 0, ~torch.isfinite(targets)) or task is NUMBER


def test_requests_may_ask_for_a_heat_map_and_nothing_else():
    content = base64.b64encode(IMAGE).decode()
    assert NUMBER.parse({"image": content, "explain": True}) == {"image": IMAGE, "explain": True}
    assert NUMBER.parse({"image": content, "explain": False}) == {"image": IMAGE}
    with pytest.raises(DataError, match="true or false"):
        NUMBER.parse({"image": content, "explain": "yes"})


def test_a_hidden_layer_starts_where_the_linear_head_ended(tmp_path):
    torch = pytest.importorskip("torch")
    from budwood.engine.image_regressor import HEAD_FILE, deepened, load_regressor, save_regressor

    pictures.base(tmp_path / "base", "resnet")
    (tmp_path / "stage").mkdir()
    ImageRegression.take_base(tmp_path / "base", tmp_path / "stage")
    model = load_regressor(tmp_path / "stage", ("value",))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.weight)
    pixels = torch.randn(6, 3, 32, 32)
    with torch.inference_mode():
        linear = model(pixels)["logits"]
        deep = deepened(model, 37, 0.75).eval()(pixels)["logits"]
    spread = float(linear.std())
    assert float((deep - linear).abs().max()) < 0.5 * spread, "but for each unit's own noise"
    save_regressor(model, tmp_path / "saved", ("value",))
    assert (tmp_path / "saved" / HEAD_FILE).exists()
    again = load_regressor(tmp_path / "saved", ("value",))
    with torch.inference_mode():
        assert torch.equal(again(pixels)["logits"], deep)
    with torch.inference_mode():
        fresh = load_regressor(tmp_path / "saved", ("a", "b"))(pixels)["logits"]
    assert fresh.shape == (6, 2)
    assert not fresh.any(), "made for others, so it begins anew"


def test_weighted_outcomes_leave_the_risk_honest():
    torch = pytest.importorskip("torch")
    labels = rows(["yes"] * 10 + ["no"] * 70)
    task = ImageRegression.from_rows(labels)
    targets = torch.from_numpy(task.targets(labels))
    logit = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], max_iter=100)

    def step():
        optimizer.zero_grad()
        loss = task.loss({"logits": logit.expand(80, 1)}, targets)
        loss.backward()
        return loss

    optimizer.step(step)
    assert float(torch.sigmoid(logit.detach())) == pytest.approx(10 / 80, abs=1e-3)
