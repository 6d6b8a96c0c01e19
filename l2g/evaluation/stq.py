"""A door for a former place: `python -m l2g.evaluation.stq` is `l2g metrics stq`."""

import sys

from l2g.cli.learning.stq import main

if __name__ == "__main__":
    sys.exit(main())
