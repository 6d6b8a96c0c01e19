"""`python -m l2g.data.synthetic` draws synthetic video."""

import sys

from l2g.data.synthetic.video import main

if __name__ == "__main__":
    sys.exit(main())
