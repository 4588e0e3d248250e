"""Facts about the machine: complete, free of names, and honest about how the energy was come by."""

import getpass
import json
import mmap
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from budwood.engine import machine


def test_description_is_json_and_tells_neither_the_machine_nor_the_user() -> None:
    text = json.dumps(machine.describe(), allow_nan=False)
    assert machine.describe()["packages"]["numpy"] == np.__version__
    assert machine.describe()["cores"] >= machine.describe()["cores_usable"] >= 1
    for secret in (platform.node(), str(Path.home())):
        assert not secret or (f'"{secret}"' not in text and f"{secret}/" not in text)
    assert f'"{getpass.getuser()}"' not in text


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("sse avx2", "avx2"),
        ("avx2 avx512f", "avx512"),
        ("avx2 avx_vnni", "vnni"),
        ("avx2 avx512f avx512_vnni", "vnni"),
        ("avx2 avx512_vnni amx_int8", "amx"),
        ("sse2", "other"),
    ],
)
def test_instruction_set_is_read_from_the_flags(
    flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Test CPU\nflags\t\t: {flags}\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert machine.instruction_set() == expected
    assert machine.describe()["cpu"] == "Test CPU"


@pytest.mark.parametrize(("features", "expected"), [("fp asimd asimddp", "arm-dot"), ("fp asimd", "arm")])
def test_instruction_set_of_arm(features: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(f"Features\t: {features}\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(sys, "platform", "linux")
    assert machine.instruction_set() == expected


def test_memory_of_this_process_grows_with_what_it_holds() -> None:
    before = machine.resident_memory_mb()
    with mmap.mmap(-1, 64_000_000) as held:  # from the system itself: memory that was freed before cannot serve
        for _ in range(64):
            held.write(b"x" * 1_000_000)
        assert machine.resident_memory_mb() - before == pytest.approx(64, abs=16)
    assert machine.peak_memory_mb() >= before


def test_energy_is_estimated_from_processor_time_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "POWERCAP", tmp_path)
    seconds = iter([100.0, 460.0])
    with machine.EnergyMeter(watts_per_core=5.0, clock=lambda: next(seconds)) as meter:
        pass
    energy = meter.energy
    assert energy.wh == pytest.approx(0.5)
    assert "5 W per core (assumed)" in energy.method


def rapl(folder: Path, joules: float) -> None:
    for name, count in (("intel-rapl:0", joules), ("intel-rapl:0:1", 1e6)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "energy_uj").write_text(f"{int(count * 1e6)}\n")
        (folder / name / "max_energy_range_uj").write_text(f"{int(10_000 * 1e6)}\n")


@pytest.mark.parametrize(("before", "after"), [(0.0, 7200.0), (9_000.0, 6_200.0)])
def test_energy_is_read_from_the_meter_also_when_it_starts_again(
    before: float, after: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "POWERCAP", tmp_path)
    rapl(tmp_path, before)
    with machine.EnergyMeter() as meter:
        rapl(tmp_path, after)
    assert meter.energy.wh == pytest.approx(2.0)
    assert meter.energy.method.startswith("measured: RAPL")
