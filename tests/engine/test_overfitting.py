"""What is said of eight images that were not quite learnt by heart."""

import pytest

pytest.importorskip("torch")

from budwood.core.errors import StepError
from budwood.engine.overfitting import doubt


def test_images_that_are_half_learnt_are_told_of_and_those_that_are_not_stop_the_run() -> None:
    assert "AP50 0.60, above 0.9 is expected; look at the boxes" in doubt(0.6, 8)
    with pytest.raises(StepError, match=r"8 images .* AP50 0\.10") as caught:
        doubt(0.1, 8)
    assert "budwood doctor" in caught.value.fix
