"""Clips, a small model and results as the tests of batches need them."""

import subprocess
import sys
from contextlib import closing
from functools import partial
from types import SimpleNamespace

import numpy as np

from l2g.batch.records import DONE, Outcome, VideoRecord
from l2g.runtime.backends.open import open_backend
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.picture.masks import InstanceMask
from l2g.runtime.video.job import process_video
from l2g.runtime.video.source import open_source

FILES = ("frames.jsonl", "results.json", "overlay.mp4")


def one_by_one(model, clips, output):
    """The results of this process, clip after clip."""
    with closing(open_backend(model, top_k=None, threads=1)) as backend:
        for clip in clips:
            with open_source(clip) as source:
                process_video(backend, source, output / clip.stem)


def l2g_batch(*words):
    command = [sys.executable, "-m", "l2g", "batch", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def frame(index, boxes, rate=10):
    """A frame of 40 x 40 pixels with a square at each (x, y) of `boxes`, by track."""
    tracks = []
    for track, (x, y) in boxes.items():
        patch = np.ones((10, 10), bool)
        mask = InstanceMask.from_patch(patch, y, x, 40, 40)
        tracks.append(TrackedInstance(track, track, 0, 0.9, 0, mask))
    return FrameResult(index, index / rate, tuple(tracks), 40, 40)


def done(name, source="a.mp4"):
    return VideoRecord(name, source, DONE, 8, 1, 0.1)


class Scripted:
    """A worker that does with a video what its name says: it dies, fails, is slow, or settles it."""

    def __init__(self, folder):
        self.folder = folder

    def ready(self):
        return ""

    def do(self, task):
        import os
        import time

        what, _, _ = task.entry.name.partition("-")
        with open(self.folder / task.entry.name, "a") as calls:
            calls.write(f"{os.getpid()}\n")
        first = len((self.folder / task.entry.name).read_text().splitlines()) == 1
        if what == "dies" or (what == "once" and first):
            os._exit(3)
        if what == "raises":
            raise OSError("the store is away")
        if what == "slow" and first:
            time.sleep(60)
        return Outcome(VideoRecord(task.entry.name, task.entry.source, DONE, attempts=task.attempt))


class FakeRay:
    """Ray as far as the scheduler needs it, in this process: a call is made when its turn comes, the oldest first, but
    those of tasks that are late when nothing else is left."""

    exceptions = SimpleNamespace(
        RayError=type("RayError", (Exception,), {}), RayTaskError=type("RayTaskError", (Exception,), {})
    )

    def __init__(self, is_late=lambda task: False):
        self._is_late = is_late

    def remote(self, **_):
        return lambda kind: SimpleNamespace(remote=lambda *words: _Actor(kind(*words)))

    def wait(self, calls, timeout):
        first = min(calls, key=lambda call: any(map(self._is_late, call.args)))
        return [first], [call for call in calls if call is not first]

    def get(self, call):
        return call()

    def kill(self, actor):
        pass


class _Actor:
    def __init__(self, held):
        self._held = held

    def __getattr__(self, name):
        return SimpleNamespace(remote=partial(partial, getattr(self._held, name)))
