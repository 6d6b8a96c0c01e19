"""A door: `python -m l2g.data.validation` is `l2g data check`."""

import sys

from l2g.cli.learning.data_check import main

if __name__ == "__main__":
    sys.exit(main())
