"""`budwood serve` and `budwood keys`: what they pass on, what they refuse before anything slow, and what they say."""

from pathlib import Path

import pytest

from budwood import flow


def test_serve_passes_its_flags_and_prints_an_address_and_a_line_to_paste(run, monkeypatch, tiny_bundle):
    flow.models("s").publish("tickets", tiny_bundle)
    calls = []

    def serve(*references, on_ready, progress, **parameters):
        calls.append((references, parameters))
        on_ready("http://127.0.0.1:8123")

    monkeypatch.setattr(flow, "serve", serve)
    line = (
        "serve tickets tickets:1 --host 127.0.0.1 --port 8123 --workers 2 --runtime null --keys k --max-queue 7 "
        "--allow-host api.test --access-log --memory auto --store s"
    )
    ran = run(*line.split())
    assert calls == [
        (
            ("tickets", "tickets:1"),
            {
                "host": "127.0.0.1",
                "port": 8123,
                "workers": 2,
                "runtime": "null",
                "keys": Path("k"),
                "max_queue": 7,
                "hosts": ["api.test"],
                "access_log": True,
                "memory": "auto",
                "log": None,
                "store": "s",
            },
        )
    ]
    assert ran.code == 0
    assert "http://127.0.0.1:8123" in ran.err
    assert "curl -s http://127.0.0.1:8123/predict -H 'content-type: application/json'" in ran.err
    assert "authorization: Bearer KEY" in ran.err
    assert run("serve", "tickets", "--store", "s", "--json").json == {
        "url": "http://127.0.0.1:8123",
        "models": ["tickets"],
    }
    assert calls[1][1]["workers"] == "auto"


def test_serve_names_every_model_and_where_it_answers(run, monkeypatch, tiny_bundle):
    for name in ("tickets", "reviews"):
        flow.models().publish(name, tiny_bundle)
    monkeypatch.setattr(flow, "serve", lambda *references, on_ready, **rest: on_ready("http://127.0.0.1:8123"))
    assert (
        "\nreviews:1 answers at http://127.0.0.1:8123/models/reviews/predict\n"
        in run("serve", "tickets", "reviews").err
    )
    assert (
        "\ntickets:1 answers at http://127.0.0.1:8123/models/tickets:1/predict\n"
        in run("serve", "tickets", "tickets:1").err
    )


def test_serve_says_where_a_name_begins_with_another_version_than_the_promoted_one(run, monkeypatch, tiny_bundle):
    for _ in range(2):
        flow.models().publish("tickets", tiny_bundle)
    flow.models().promote("tickets", 1)
    monkeypatch.setattr(flow, "serve", lambda *references, on_ready, **rest: on_ready("http://127.0.0.1:8123"))
    assert "tickets@live is tickets:1  # budwood serve tickets@live" in run("serve", "tickets").err
    for reference in ("tickets@live", "tickets:2"):
        assert "@live is" not in run("serve", reference).err


def test_serve_refuses_options_of_a_log_that_there_is_not(run, tiny_bundle):
    flow.models().publish("tickets", tiny_bundle)
    ran = run("serve", "tickets", "--log-inputs", "all")
    assert ran.code == 2
    assert "--log-inputs" in ran.err
    assert "fix: --log FILE beside it" in ran.err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ("--keys none.txt", 4, "the keys file does not exist"),
        ("--host 0.0.0.0", 2, "there are no keys"),
        ("--memory much", 2, "is no number of megabytes"),
        ("--runtime tf", 4, "no runtimes named 'tf'"),
        ("--allow-host a/b", 2, "is no name of a host"),
        ("--max-queue 0", 2, "--max-queue"),
        ("--log none/log", 2, "the prediction log cannot be opened: No such file or directory"),
    ],
)
def test_serve_refuses_before_it_measures(run, monkeypatch, tiny_bundle, options, code, said):
    flow.models().publish("tickets", tiny_bundle)
    for name in ("budwood.engine.runtime_choice.decide", "budwood.serving.worker_choice.decide"):
        monkeypatch.setattr(name, lambda *given, **named: pytest.fail("measured first"))
    ran = run("serve", "tickets", "--port", "0", *options.split())
    assert ran.code == code
    assert said in ran.err


def test_keys_end_after_a_time_that_is_none_of_the_past(run):
    assert run("keys", "make", "k", "me", "--days", "-1").code == 2
    assert run("keys", "make", "k", "me", "--days", "nan").code == 2
    assert run("keys", "make", "k", "me").err.endswith("next: budwood serve MODEL --keys k\n")
    assert run("keys", "rotate", "k", "me", "--overlap-hours", "-1").code == 2
