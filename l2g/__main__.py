"""`python -m l2g` is `l2g`."""

import sys

from l2g.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
