"""Four cameras for a while: killed, stalled and started again in turn; what comes of it, and how memory grows.

    python benchmarks/soak.py --minutes 10 [--model l2g_tiny] [--cameras rtsp|http]

Cameras of 5, 8, 10 and 12 frames a second on this machine, each a process: GStreamer's RTSP server, or MPEG-TS over
HTTP where that is not installed. Every 15 s one of them is killed or stalled for 6 s. Printed are every reconnection,
each camera's results per second while all were well and while another one was away, and the resident memory after a
minute and at the end. Exit code 1 where a camera was never found again or
memory grew by 2 % after the first minute.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.camera import CameraProcess, RtspProcess
from l2g.errors import L2GError
from l2g.runtime.backends.open import open_backend
from l2g.runtime.memory import keep_memory_together, resident_bytes
from l2g.runtime.video.job import FlowOptions, process_videos
from l2g.runtime.video.live.address import LiveOptions
from l2g.runtime.video.live.board import Board
from l2g.runtime.video.live.watcher import Progress
from l2g.runtime.video.source import Selection, open_sources

RATES = (5, 8, 10, 12)
CYCLE, AWAY, SETTLING = 15.0, 6.0, 6.0


class Log(Board):
    """A board that also counts results: of each stream, while no camera was away and while another was."""

    def __init__(self) -> None:
        super().__init__(print)
        self.away: str | None = None
        self.counts: Counter[tuple[str, str]] = Counter()
        self.seconds: Counter[str] = Counter()
        self._since = time.monotonic()

    def result(self, progress: Progress) -> None:
        super().result(progress)
        if not self.counts:
            self._since = time.monotonic()  # before, the model was loaded
        if self.away is None:
            self.counts[progress.stream, "well"] += 1
        elif self.away not in (progress.stream, "settling"):
            self.counts[progress.stream, "other away"] += 1

    def now(self, away: str | None) -> None:
        """From now on that camera is away; None: none is; "settling": one is coming back."""
        moment = time.monotonic()
        self.seconds[str(self.away)] += moment - self._since
        self.away, self._since = away, moment


def disturb(cameras: Sequence[CameraProcess | RtspProcess], names: list[str], log: Log, ended: threading.Event) -> None:
    """Kill and stall one camera after the other, until the end."""
    for turn in itertools.count():
        if ended.wait(CYCLE - AWAY - SETTLING):
            return
        number = turn % len(cameras)
        how = "kill" if turn // len(cameras) % 2 == 0 else "stall"
        print(f"-- {names[number]}: {how}", flush=True)
        log.now(names[number])
        cameras[number].tell(how)
        if ended.wait(AWAY):
            return
        cameras[number].tell("start")
        log.now("settling")
        if ended.wait(SETTLING):
            return
        log.now(None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l2g_tiny")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cameras", choices=("rtsp", "http"), help="(default: rtsp where its server is installed)")
    args = parser.parse_args(argv)
    kind = args.cameras or ("rtsp" if RtspProcess.runs_here() else "http")
    print(f"cameras: {kind}", flush=True)
    memory: list[tuple[float, int]] = []
    ended = threading.Event()
    log = Log()
    keep_memory_together()  # as the command does
    try:
        with ExitStack() as stack:
            make = RtspProcess if kind == "rtsp" else CameraProcess
            cameras = [stack.enter_context(make(rate, seed)) for seed, rate in enumerate(RATES)]
            names = [f"cam{rate}" for rate in RATES]
            options = LiveOptions(read_timeout=2, reconnect=None, longest_pause=1)
            sources = open_sources([c.url for c in cameras], Selection(end=60 * args.minutes), live=options)
            for source, name in zip(sources, names, strict=True):
                stack.enter_context(source)
                source.name, source.say = name, log.say  # type: ignore[attr-defined]
            backend = stack.enter_context(closing(open_backend(args.model, top_k=None)))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            threading.Thread(target=disturb, args=(cameras, names, log, ended), daemon=True).start()
            threading.Thread(target=sample, args=(memory, ended), daemon=True).start()
            jobs = [(source, folder / name) for source, name in zip(sources, names, strict=True)]
            summaries = process_videos(backend, jobs, overlay=False, flow=FlowOptions(stall=4), watcher=log)
            ended.set()
            log.now(None)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    others = {name: sum(log.seconds[other] for other in names if other != name) for name in names}
    print(f"\n{'':8}{'results':>9}{'dropped':>9}{'reconnects':>12}{'per s, all well':>17}{'per s, another away':>21}")
    for name, summary, source in zip(names, summaries, sources, strict=True):
        well = log.counts[name, "well"] / max(1e-9, log.seconds["None"])
        away = log.counts[name, "other away"] / max(1e-9, others[name])
        print(f"{name:8}{summary.frames:>9}{summary.dropped:>9}{source.connection:>12}{well:>17.2f}{away:>21.2f}")
    early = [size for moment, size in memory if moment <= 60][-1]
    growth = memory[-1][1] / early - 1
    print("resident MB: " + ", ".join(f"{size / 1e6:.0f}" for _, size in memory[::12]))
    minutes, last = memory[-1][0] / 60, memory[-1][1]
    print(
        f"{minutes:.1f} minutes; resident {early / 1e6:.1f} MB after one, {last / 1e6:.1f} MB at the end: {growth:+.1%}"
    )
    return 1 if growth >= 0.02 or any(summary.damage for summary in summaries) else 0


def sample(memory: list[tuple[float, int]], ended: threading.Event) -> None:
    began = time.monotonic()
    while not ended.is_set():
        memory.append((time.monotonic() - began, resident_bytes() or 0))
        ended.wait(5)


if __name__ == "__main__":
    sys.exit(main())
