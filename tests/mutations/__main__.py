"""Mutated inputs through every public command: a result or one clear error, whatever comes in.

    python -m tests.mutations --cases 2000 --seed 1

Each case runs in a forked child, 60 seconds and 10 GiB at most. Prints a table by family, and every case that ended
otherwise with the words that repeat it. Exit code: 0 all were good, 1 some were not.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.mutations.child import GOOD, SECONDS, Forks, Outcome, Place
from tests.mutations.families import FAMILIES
from tests.mutations.kept import CACHE
from tests.mutations.originals import Originals

KINDS = (*GOOD, "traceback", "hang", "crash", "memory", "half-written")


def one(
    forks: Forks, good: Originals, family: str, seed: str, work: Path, seconds: float = SECONDS
) -> tuple[list[str], Outcome]:
    """The case of that family and seed; its inputs are made in `work`, which is new."""
    (work / "out").mkdir(parents=True)
    words = FAMILIES[family](good, random.Random(f"{family} {seed}"), work)
    kept = Place(environment={"L2G_CACHE": str(work / CACHE)}) if (work / CACHE).exists() else None
    return words, forks.outcome_of(words, work / "log", work / "out", seconds, kept)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FAMILIES, nargs="+", default=list(FAMILIES))
    parser.add_argument("--case", help="only this one, as it was printed: FAMILY SEED", nargs=2)
    options = parser.parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # the words of a case may be no text
    counts: dict[str, Counter[str]] = {family: Counter() for family in options.only}
    cases = [(name, f"{options.seed}.{index}") for index in range(options.cases) for name in options.only]
    if options.case:
        cases, counts = [tuple(options.case)], {options.case[0]: Counter()}
    with tempfile.TemporaryDirectory() as folder, Forks() as forks:
        good = Originals.made(Path(folder))
        for family, seed in cases[: options.cases]:
            work = Path(folder) / "case"
            words, outcome = one(forks, good, family, seed, work)
            counts[family][outcome.kind] += 1
            if not outcome.good or options.case:
                print(f"{outcome.kind}: --case {family} {seed} ({outcome.seconds:.1f} s): {' '.join(words)[:300]}")
                print("    " + outcome.text.strip()[-600:].replace("\n", "\n    "), flush=True)
            shutil.rmtree(work, ignore_errors=True)
    print(f"{'family':<14}{'cases':>7}" + "".join(f"{kind:>14}" for kind in KINDS))
    for family, found in counts.items():
        print(f"{family:<14}{found.total():>7}" + "".join(f"{found[kind]:>14}" for kind in KINDS))
    total = sum(counts.values(), Counter())
    print(f"{'all':<14}{total.total():>7}" + "".join(f"{total[kind]:>14}" for kind in KINDS))
    return 0 if set(total) <= set(GOOD) else 1


if __name__ == "__main__":
    sys.exit(main())
