"""`l2g run` with a backend that needs no network, as a process of its own; its arguments are the command's."""

import os
import sys
import time

import l2g.runtime.backends.open as backends
import l2g.runtime.video.writer as writer
from l2g.cli.running.run import main
from l2g.runtime.video.live.source import LiveSource
from tests.runtime.blobs import BlobBackend


class Slow(BlobBackend):
    seconds = 0.0

    def step(self, frames, reset):
        time.sleep(self.seconds)
        return super().step(frames, reset)


def open_backend(model, *, top_k, canvas=None, portrait=False, **_):
    backend = Slow(canvas or ((96, 64) if portrait else (64, 96)), top_k=top_k)
    backend.seconds = float(model)
    return backend


def ready(self):
    print("opening", file=sys.stderr, flush=True)
    return wait(self)


def slow(fragments, output):
    print("writing", file=sys.stderr, flush=True)
    time.sleep(0.5)
    return with_index(fragments, output)


if "SLOW_WRITER" in os.environ:
    with_index, writer._with_index = writer._with_index, slow
wait = LiveSource.ready
LiveSource.ready = ready  # says that signals find the command at work
backends.open_backend = open_backend
sys.exit(main())
