"""A door: `python -m l2g.training.train` (and `torchrun -m`) is `l2g train`."""

import sys

from l2g.cli.learning.train import main

if __name__ == "__main__":
    sys.exit(main())
