"""The calibration that ships with a model: its own where it has one, else what the trials agree on."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from budwood.engine import risk_calibration
from budwood.stages import heads


def bundle(**calibration: float) -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(calibration=calibration))


def test_the_final_fit_s_own_calibration_goes_first() -> None:
    assert heads.calibration(bundle(temperature=1.5), [bundle(temperature=3.0)]) == {"temperature": 1.5}


def test_otherwise_it_is_the_median_of_the_trials_of_what_all_of_them_have() -> None:
    trials = [bundle(temperature=1.0, low=0.2), bundle(temperature=4.0), bundle(temperature=2.0, low=0.4)]
    assert heads.calibration(bundle(), trials) == {"temperature": 2.0}


def test_a_trial_too_small_for_a_risk_calibration_takes_it_from_none_of_the_others() -> None:
    unfitted = risk_calibration.platt(np.zeros(5), np.ones(5))
    found = heads.calibration(
        bundle(), [bundle(slope=0.5, offset=-1.0), bundle(**unfitted), bundle(slope=0.7, offset=-2.0)]
    )
    assert found == {"slope": 0.7, "offset": -1.0}
