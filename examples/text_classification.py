"""The whole path in Python: adapt a model to the example tickets, shrink it, and ask it about new ones.

Run it from anywhere with `.venv/bin/python examples/text_classification.py`; it takes a few minutes on two CPU cores.
The models go to `models/` in the working directory, and a second run adds new versions beside the old ones.
"""

from pathlib import Path

import budwood

HERE = Path(__file__).resolve().parent


def main() -> None:
    adapted = budwood.adapt(HERE / "tickets.csv", name="tickets", max_minutes=3)
    print(
        f"{adapted.name}:{adapted.version} by {adapted.method}: {adapted.metric} {adapted.score:.3f}, 95 % {adapted.ci}"
    )
    print(adapted.verdict)

    # The test set has some 120 rows, which cannot prove a drop of less than a few points.
    shrunk = budwood.shrink(f"tickets:{adapted.version}", max_drop=0.05, max_minutes=3)
    for candidate in shrunk.report.candidates:
        print(f"{candidate.recipe}: {candidate.verdict} {candidate.why}")

    texts = (HERE / "tickets_new.txt").read_text(encoding="utf-8").splitlines()
    for text, answer in zip(texts, budwood.predict("tickets", texts), strict=True):
        print(f"{answer['label']:<20} {answer['score']:.2f}  {text}")


if __name__ == "__main__":
    main()
