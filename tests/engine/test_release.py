"""A released model names the rows that the store keeps, so that a later shrink finds them."""

import tiny

from budwood.core.bundle import Bundle
from budwood.core.store import Store
from budwood.engine.graft import data_record
from budwood.engine.machine import Energy
from budwood.engine.measure import score
from budwood.engine.predictor import Predictor
from budwood.engine.release import release
from budwood.stages.choosing import merged


def refitted(path) -> Bundle:
    """A bundle whose last fit learnt from train and validation rows together, as `adapt` does for small data."""

    def write(folder):
        tiny.write_files(folder)
        (folder / "pooling.json").write_text('{"pooling": "mean", "normalize": false}')

    return Bundle.create(path, tiny.draft(data=data_record(merged(tiny.splits()))), write)


def test_the_rows_of_a_released_model_are_found_in_the_store(tmp_path):
    splits, store = tiny.splits(), Store(tmp_path / "models")
    store.save_splits(splits)
    bundle = refitted(tmp_path / "refitted")
    scores = score(Predictor.open(bundle), splits.test.rows)
    energy = Energy(wh=0.0, method="none")
    released = release(
        bundle, tmp_path / "out", name="t", scores=scores, splits=splits, report={}, energy=energy, seconds=1.0
    )
    assert released.manifest.data is not None
    assert store.load_splits(released.manifest.data.fingerprint) == splits
