"""codecarbon is asked where it is installed and a country is named; a stand-in answers, since it is not needed here."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from budwood.core.errors import UsageError
from budwood.engine import carbon, machine

USED = SimpleNamespace(energy_consumed=0.002, emissions=0.0007)
"""Two watt-hours, and 350 g of CO2 a kilowatt-hour."""


class Tracker:
    """What the real tracker does, as far as Budwood asks."""

    made: ClassVar[list["Tracker"]] = []

    def __init__(self, **options):
        self.options, self.calls = options, []
        Tracker.made.append(self)

    def start(self):
        self.calls.append("start")

    def flush(self):
        self.calls.append("flush")
        for handler in self.options["output_handlers"]:
            handler.out(USED, USED)

    def stop(self):
        self.calls.append("stop")


@pytest.fixture
def codecarbon(monkeypatch):
    package, data = ModuleType("codecarbon"), ModuleType("codecarbon.input")
    package.OfflineEmissionsTracker = Tracker
    package.__spec__ = importlib.util.spec_from_loader("codecarbon", loader=None)
    mix = {"DEU": {"country_name": "Germany"}}
    data.DataSource = lambda: SimpleNamespace(get_global_energy_mix_data=lambda: mix)
    monkeypatch.setitem(sys.modules, "codecarbon", package)
    monkeypatch.setitem(sys.modules, "codecarbon.input", data)
    monkeypatch.setattr(Tracker, "made", [])
    return Tracker


def test_energy_and_grid_are_codecarbon_s_where_a_country_is_named(codecarbon, monkeypatch):
    monkeypatch.setenv("BUDWOOD_COUNTRY", "deu")
    with machine.EnergyMeter() as meter:
        assert meter.energy.wh == pytest.approx(2.0)
    energy = meter.energy
    assert energy == meter.energy
    assert (energy.grid, energy.country, energy.method) == (
        "Germany",
        "Germany",
        "codecarbon, offline, of this process",
    )
    assert energy.grams_per_kwh == pytest.approx(350)
    assert energy.grams == pytest.approx(0.7)
    (tracker,) = codecarbon.made
    assert tracker.calls == ["start", "flush", "flush", "stop"]
    assert tracker.options["country_iso_code"] == "DEU"
    assert not tracker.options["save_to_file"]
    assert not tracker.options["save_to_api"]


def test_before_anything_was_counted_the_world_s_figure_is_not_called_the_country_s(codecarbon, monkeypatch):
    monkeypatch.setenv("BUDWOOD_COUNTRY", "DEU")
    monkeypatch.setattr(USED, "energy_consumed", 0.0)
    with machine.EnergyMeter() as meter:
        pass
    assert (meter.energy.wh, meter.energy.grams_per_kwh, meter.energy.country) == (0.0, 473.0, "Germany")
    assert "world average" in meter.energy.grid


def test_an_unknown_country_is_refused_before_anything_is_measured(codecarbon, monkeypatch):
    for country in ("Germany", "XXX"):
        monkeypatch.setenv("BUDWOOD_COUNTRY", country)
        with pytest.raises(UsageError, match="no figures for the country") as caught, machine.EnergyMeter():
            pass
        assert caught.value.where == "BUDWOOD_COUNTRY"
    assert codecarbon.made == []


def test_without_a_country_codecarbon_is_not_started(codecarbon, monkeypatch):
    monkeypatch.delenv("BUDWOOD_COUNTRY", raising=False)
    with machine.EnergyMeter() as meter:
        pass
    assert codecarbon.made == []
    assert meter.energy.grams == pytest.approx(meter.energy.wh * 0.473)


def test_without_codecarbon_energy_is_estimated_as_ever(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "POWERCAP", tmp_path)
    monkeypatch.setattr(carbon, "find_spec", lambda name: None)
    monkeypatch.setenv("BUDWOOD_COUNTRY", "DEU")
    with machine.EnergyMeter() as meter:
        pass
    assert "assumed" in meter.energy.method
    assert "world average" in meter.energy.grid
