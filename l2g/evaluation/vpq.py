"""A door for a former place: `python -m l2g.evaluation.vpq` is `l2g metrics vpq`."""

import sys

from l2g.cli.learning.vpq import main

if __name__ == "__main__":
    sys.exit(main())
