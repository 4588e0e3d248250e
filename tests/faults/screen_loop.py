"""Screens a library with checkpoints after every chunk; prints the result as JSON. Killed at will by its test."""

import json
import sys
from pathlib import Path

from budwood.core.bundle import Bundle
from budwood.engine import screening
from budwood.engine.library import open_library


def main() -> None:
    bundle, library, work, workers = sys.argv[1:]
    screening.CHUNK, screening.SAVE_SECONDS = 50, 0.0
    print("started", flush=True)
    found = screening.screen(
        Bundle.open(bundle),
        open_library(Path(library), target="label"),
        top=40,
        work=Path(work),
        workers=int(workers),
        progress=lambda what, done, total, note: print(done, flush=True),
    )
    facts = [found.rows, found.screened, found.repeated, found.enrichment, found.resumed_at]
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
