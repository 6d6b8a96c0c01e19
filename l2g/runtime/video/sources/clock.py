"""One timeline out of the time stamps of a stream, whose clock may stop, jump or begin anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

Item = TypeVar("Item")

# Where clocks may jump (MPEG-TS and its kin), a gap beyond this and beyond three usual ones is a jump, as in FFmpeg.
LONGEST_GAP = Fraction(10)


def timeline(
    stamped: Iterable[tuple[Fraction | None, Item]], interval: Fraction, may_jump: bool
) -> Iterator[tuple[Fraction, Item]]:
    """Put items with time stamps (seconds, None = unknown) on a timeline that begins at 0 and always grows.

    interval: what lies between two items where their stamps do not tell. may_jump: the container allows that its clock
    leaps ahead; otherwise a large gap is taken for a true one.

    A stamp that falls, or leaps ahead, is either a stray (the next one goes on as if it had not been) or the start of a
    new clock, whose first item then follows the last one after the spacing seen so far.
    """
    reader = iter(stamped)
    entry = next(reader, None)
    time, last, step = Fraction(0), Fraction(0), interval
    started = False
    while entry is not None:
        stamp, item = entry
        following: tuple[Fraction | None, Item] | None = None
        looked_ahead = False
        if not started:
            last, started = stamp if stamp is not None else last, True
        elif stamp is None:
            time, last = time + step, last + step
        elif _follows(last, stamp, step, interval, may_jump):
            step = stamp - last
            time, last = time + step, stamp
        else:
            following, looked_ahead = next(reader, None), True
            after = following[0] if following is not None else None
            if after is not None and _follows(last, after, step, interval, may_jump):
                middle = ((after - last) / 2).limit_denominator(90_000)
                time, last = time + middle, last + middle
            else:
                time, last = time + step, stamp
        yield time, item
        entry = following if looked_ahead else next(reader, None)


def _follows(last: Fraction, stamp: Fraction, step: Fraction, interval: Fraction, may_jump: bool) -> bool:
    gap = stamp - last
    return gap > 0 and not (may_jump and gap > max(LONGEST_GAP, 3 * step, 3 * interval))
