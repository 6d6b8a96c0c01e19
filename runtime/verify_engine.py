"""A door: `python runtime/verify_engine.py` is `l2g verify`."""

import importlib.util
import sys

if importlib.util.find_spec("l2g") is None:
    text = "error: l2g is not installed in this Python; in the project's folder: pip install -e '.[export]'"
    print(text, file=sys.stderr)
    sys.exit(2)
from l2g.cli.making.verify import main

if __name__ == "__main__":
    sys.exit(main())
