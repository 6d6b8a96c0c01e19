"""A door: `python -m l2g.data.synthetic` is `l2g data draw`."""

import sys

from l2g.cli.learning.data_draw import main

if __name__ == "__main__":
    sys.exit(main())
