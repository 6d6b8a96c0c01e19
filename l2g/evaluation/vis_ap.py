"""A door for a former place: `python -m l2g.evaluation.vis_ap` is `l2g metrics vis-ap`."""

import sys

from l2g.cli.learning.vis_ap import main

if __name__ == "__main__":
    sys.exit(main())
