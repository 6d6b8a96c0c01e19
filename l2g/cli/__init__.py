"""The command line: `l2g` and its commands."""
