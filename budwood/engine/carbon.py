"""Energy and CO2 by codecarbon in its offline mode, for those who have it installed and name their country.

Set `BUDWOOD_COUNTRY` to three letters, such as DEU. Without it, or without the package, `EnergyMeter` estimates.
"""

import logging
import os
import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from budwood.core.errors import UsageError

__all__ = ["COUNTRY", "CarbonTracker", "open_tracker"]

COUNTRY = "BUDWOOD_COUNTRY"
SECONDS = 15
"""Between two looks at the load; the energy of a look is that load times the processor's rated power."""


class CarbonTracker:
    """A running codecarbon tracker of this process. It writes no file and asks no network.

    Raises:
        UsageError: the country is not one that codecarbon has figures for.
    """

    def __init__(self, country: str) -> None:
        known = import_module("codecarbon.input").DataSource().get_global_energy_mix_data()
        if not re.fullmatch(r"[A-Z]{3}", country) or country not in known:
            fix = "give its three letters (ISO 3166 alpha-3), such as DEU or USA, or unset it"
            raise UsageError(f"codecarbon has no figures for the country {country!r}", where=COUNTRY, fix=fix)
        self.country = str(known[country].get("country_name", country))
        self.wh, self.grams, self.running = 0.0, 0.0, False
        logging.getLogger("codecarbon").setLevel(logging.ERROR)  # it reports its start before it reads its own setting
        self.tracker: Any = import_module("codecarbon").OfflineEmissionsTracker(
            country_iso_code=country,
            tracking_mode="process",
            measure_power_secs=SECONDS,
            allow_multiple_runs=True,
            save_to_file=False,
            save_to_api=False,
            log_level="error",
            output_handlers=[self],
        )
        self.tracker.start()
        self.running = True

    def out(self, total: Any, delta: Any) -> None:
        """Called by the tracker with what was used so far."""
        self.wh, self.grams = 1000 * float(total.energy_consumed), 1000 * float(total.emissions)

    def live_out(self, total: Any, delta: Any) -> None:
        self.out(total, delta)

    def task_out(self, data: Any, experiment_name: str) -> None:
        """Called for tasks within a run; there are none."""

    def exit(self) -> None:
        """Called when the tracker stops; nothing is held open."""

    def read(self) -> tuple[float, float]:
        """Watt-hours and grams of CO2 since the start."""
        if self.running:
            self.tracker.flush()
        return self.wh, self.grams

    def stop(self) -> None:
        """End it; `read` goes on telling what was used."""
        if self.running:
            self.read()
            self.running = False
            self.tracker.stop()


def open_tracker() -> CarbonTracker | None:
    """A tracker for the country that the environment names; None without a country, or without codecarbon."""
    country = os.environ.get(COUNTRY, "").strip().upper()
    return CarbonTracker(country) if country and find_spec("codecarbon") is not None else None
