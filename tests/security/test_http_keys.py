"""API keys: what each may do, how often, how long; and how they are made, rotated and revoked."""

import hashlib
import hmac
import json
import math
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import served

from budwood.cli import main
from budwood.core.errors import NotFoundError, UsageError
from budwood.serving import keys as module
from budwood.serving.errors import HttpError
from budwood.serving.keys import Keys, create_key, read_keys, revoke_keys, rotate_key
from budwood.serving.rates import PROBES, SLOTS, Rates, allocate_rates, identity
from budwood.serving.server import Handle


class Clock:
    """A time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def given(key: str) -> dict[bytes, bytes]:
    return {b"x-api-key": key.encode()}


def refusal(keys: Keys, key: str, scope: module.Scope = "predict", address: str = "") -> HttpError:
    with pytest.raises(HttpError) as caught:
        keys.check(given(key), scope, address)
    return caught.value


def test_a_line_of_three_words_is_a_key_to_ask_the_models(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"alice 12345678 {hashlib.sha256(b'123456789').hexdigest()}\n")
    keys = Keys(path)
    assert keys.check(given("123456789")).name == "alice"
    assert refusal(keys, "123456789", "admin").status == 403


def test_an_admin_may_do_both(tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys", "root", "admin")
    keys = Keys(tmp_path / "keys")
    assert keys.check(given(key), "predict").scope == keys.check(given(key), "admin").scope == "admin"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# of the team")  # without a line break at its end
    create_key(path, "alice")
    create_key(path, "bob", "admin", 600, 1_800_000_000.5)
    assert [(key.name, key.scope, key.per_minute, key.until) for key in read_keys(path)] == [
        ("alice", "predict", 0, math.inf),
        ("bob", "admin", 600, 1_800_000_000),
    ]
    assert path.read_text().startswith("# of the team\nalice ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("scope=root", "no scope"),
        ("per-minute=-1", "cannot be kept"),
        ("per-minute=9999999", "cannot be kept"),
        ("per-minute=fast", "not a key"),
        ("until=tomorrow", "not a key"),
        ("until=2027-01-01T00:00:00", "no time zone"),
        ("scope=admin scope=admin", "not a key"),
        ("colour=red", "not a key"),
        ("admin", "not a key"),
    ],
)
def test_words_that_a_line_cannot_have(tmp_path: Path, words: str, says: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# one\nalice 12345678 {'0' * 64} {words}\n")
    with pytest.raises(UsageError, match=says) as caught:
        Keys(path)
    assert caught.value.where == f"{path}, line 2"


def test_keys_are_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time itself cannot be asserted; that every way ends in the same comparison can."""
    compared: list[str] = []
    original = hmac.compare_digest

    def compare(left: str, right: str) -> bool:
        compared.append(right)
        return original(left, right)

    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    key = create_key(tmp_path / "keys", "alice")
    keys = Keys(tmp_path / "keys")
    keys.check(given(key))
    for wrong in ("", "x", key[:8], key[:-1], f"{key}x", "another-key"):
        refusal(keys, wrong)
    assert len(compared) == 7


def test_a_key_ends_when_its_time_is_over(tmp_path: Path) -> None:
    clock = Clock()
    key = create_key(tmp_path / "keys", "alice", until=clock.now + 60)
    keys = Keys(tmp_path / "keys", clock=clock)
    keys.check(given(key))
    clock.now += 60
    assert refusal(keys, key).status == 401


def test_rotation_overlaps(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Clock()
    path.write_text("# the first line\n")
    old, other = create_key(path, "alice", "admin", 60), create_key(path, "bob")
    path.chmod(0o640)
    new = rotate_key(path, "alice", 3600, clock)
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_text().startswith("# the first line\n")
    keys = Keys(path, clock=clock)
    assert {keys.check(given(key)).name for key in (old, new)} == {"alice"}
    assert (keys.check(given(new)).scope, keys.check(given(new)).per_minute) == ("admin", 60)
    clock.now += 3600
    assert refusal(keys, old).status == 401
    keys.check(given(new))
    keys.check(given(other))
    # A second rotation does not give the first key its time back.
    rotate_key(path, "alice", 7200, clock)
    keys.refresh()
    assert refusal(keys, old).status == 401


def test_revoking_takes_all_keys_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    old, other = create_key(path, "alice"), create_key(path, "bob")
    new = rotate_key(path, "alice", 3600)
    keys = Keys(path)
    assert revoke_keys(path, "alice") == 2
    keys.refresh()
    assert [refusal(keys, key).status for key in (old, new)] == [401, 401]
    keys.check(given(other))
    for change in (lambda: revoke_keys(path, "alice"), lambda: rotate_key(path, "alice", 0)):
        with pytest.raises(NotFoundError, match="no key named 'alice'"):
            change()


def test_a_rate_is_kept_by_all_workers_together(tmp_path: Path) -> None:
    """Two readers of one memory stand for two processes."""
    clock, memory = Clock(), allocate_rates()
    key = create_key(tmp_path / "keys", "alice", per_minute=6)
    workers = [Keys(tmp_path / "keys", Rates(memory, clock)) for _ in range(2)]
    for turn in range(6):
        workers[turn % 2].check(given(key))
    for worker in workers:
        error = refusal(worker, key)
        assert (error.status, dict(error.headers)[b"retry-after"]) == (429, b"10")
    clock.now += 10
    workers[1].check(given(key))
    assert refusal(workers[0], key).status == 429
    clock.now += 3600  # it holds no more than one minute's worth
    for turn in range(6):
        workers[turn % 2].check(given(key))
    assert refusal(workers[0], key).status == 429


def test_a_successor_shares_the_rate_of_its_name(tmp_path: Path) -> None:
    clock = Clock()
    old = create_key(tmp_path / "keys", "alice", per_minute=2)
    new = rotate_key(tmp_path / "keys", "alice", 3600)
    keys = Keys(tmp_path / "keys", Rates(clock=clock))
    keys.check(given(old))
    keys.check(given(new))
    assert [refusal(keys, key).status for key in (old, new)] == [429, 429]


def test_wrong_keys_are_limited_by_address_and_right_ones_still_pass(tmp_path: Path) -> None:
    clock = Clock()
    key = create_key(tmp_path / "keys", "alice")
    keys = Keys(tmp_path / "keys", Rates(clock=clock))
    statuses = [refusal(keys, f"guess-{i}", address="192.0.2.1").status for i in range(100)]
    assert statuses == [401] * module.FAILURES_PER_MINUTE + [429] * (100 - module.FAILURES_PER_MINUTE)
    error = refusal(keys, "again", address="192.0.2.1")
    assert dict(error.headers) == {b"retry-after": b"1", b"connection": b"close"}
    keys.check(given(key), address="192.0.2.1")
    assert refusal(keys, "guess", address="192.0.2.2").status == 401


def test_buckets_take_a_bounded_room(tmp_path: Path) -> None:
    """A hundred thousand addresses; the newest are remembered, and no memory is taken."""
    rates = Rates(clock=Clock())
    size = len(rates.cells)
    for number in range(100_000):
        rates.take(identity(f"failures {number}"), 60)
    assert len(rates.cells) == size == 2 * SLOTS
    for _ in range(60):
        rates.take(7, 60)
    assert rates.take(7, 60) > 0


def test_neighbours_do_not_share_a_bucket() -> None:
    rates = Rates(clock=Clock())
    crowd = [5 + SLOTS * i for i in range(PROBES)]
    for who in crowd:
        assert rates.take(who, 1) == 0
    assert all(rates.take(who, 1) > 0 for who in crowd)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Handle, str]]:
    folder = tmp_path_factory.mktemp("limited")
    key = create_key(folder / "keys", "alice", per_minute=3)
    with served.start_null(folder / "bundle", keys=folder / "keys") as handle:
        yield handle, key


def test_who_asks_too_often_is_told_when_to_come_again(limited: tuple[Handle, str]) -> None:
    handle, key = limited
    headers = {"x-api-key": key}
    paths = ("/predict", "/v2/models/tiny/infer", "/v1/completions")
    replies = [httpx.post(f"{handle.url}/predict", json={"text": "a"}, headers=headers) for _ in range(3)]
    replies += [httpx.post(handle.url + path, json={"text": "a"}, headers=headers) for path in paths]
    assert [reply.status_code for reply in replies] == [200] * 3 + [429] * 3
    assert all(1 <= int(reply.headers["retry-after"]) <= 20 for reply in replies[3:])
    assert replies[3].json()["detail"] == "this key may ask 3 times a minute"
    assert httpx.get(f"{handle.url}/readyz").status_code == 200


def test_the_command_makes_lists_rotates_and_revokes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "keys")

    def run(*words: str) -> str:
        assert main(["keys", *words]) == 0
        return capsys.readouterr().out

    first = run("make", file, "alice", "--scope", "admin", "--per-minute", "600", "--days", "30").strip()
    second = json.loads(run("rotate", file, "alice", "--overlap-hours", "1", "--json"))["key"]
    keys = Keys(Path(file))
    for key in (first, second):
        assert keys.check(given(key), "admin").per_minute == 600
    listed = json.loads(run("list", file, "--json"))["keys"]
    assert [item["prefix"] for item in listed] == [first[:8], second[:8]]
    assert listed[0]["until"] is not None
    shown = run("list", file)
    assert "alice" in shown
    for secret in (first, second, *(key.hash for key in read_keys(Path(file)))):
        assert secret not in shown
    assert run("revoke", file, "alice") == "2 keys of alice revoked\n"
    assert main(["keys", "revoke", file, "alice"]) == 4
    assert main(["keys", "make", file, "bob", "--scope", "root"]) == 2
    assert main(["keys", "make", file, "a b"]) == 2
