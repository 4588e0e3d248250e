"""`python -m budwood` is the command `budwood`."""

import sys

from budwood.cli import main

if __name__ == "__main__":
    sys.exit(main())
