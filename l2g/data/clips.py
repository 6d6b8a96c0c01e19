"""Clips for training: which frames of which video, then augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat

import numpy as np

from l2g.data.dataset import ENDLESS, Clip, Video, VideoDataset
from l2g.data.transforms import Augment
from l2g.errors import DataError

# Videos tried for a clip with an instance. A random scene may show none; a drawn set that fails so often has none.
_ATTEMPTS = 50


def sample_clip(
    dataset: VideoDataset,
    rng: np.random.Generator,
    length: int,
    stride: tuple[int, int] = (1, 1),
    augment: Augment | None = None,
    reverse: float = 0.0,
    leave_out: Callable[[str], None] | None = None,
) -> Clip:
    """Draw a clip with at least one instance.

    length: frames of the clip, T. stride: frames from one to the next, drawn from (low, high), both reachable.
    augment: applied to the whole clip. reverse: chance that the clip runs backwards. A reference frame with an
    instance is drawn first and the clip laid around it at random. leave_out: called with what cannot be read of a clip,
    and another is drawn in its place, from the same `rng`. Raises DataError when the data set has no instance to show,
    and, without `leave_out`, for a frame that cannot be read.
    """
    if length < 1 or not 1 <= stride[0] <= stride[1]:
        raise DataError(f"clip of {length} frames with stride {stride} asked for; length and strides start at 1")
    for videos in chain.from_iterable(repeat(choice, _ATTEMPTS) for choice in _choices(dataset)):
        video = videos[int(rng.integers(len(videos)))]
        annotated = video.annotated_frames()
        if not len(annotated):
            continue
        reference = int(rng.choice(annotated))
        times = clip_times(reference, video.length, length, int(rng.integers(stride[0], stride[1] + 1)), rng)
        if rng.random() < reverse:
            times = times[::-1]
        try:
            clip = video.read(times, rng)
        except DataError as error:
            if leave_out is None:
                raise
            leave_out(str(error))
            continue
        if augment is not None:
            clip = augment(clip, rng)
        if len(clip.labels):
            return clip
    raise DataError(
        f"data set '{dataset.name}': {_ATTEMPTS} clips or more drawn at random, and none with an instance to learn from"
    )


def _choices(dataset: VideoDataset) -> Iterator[Sequence[Video]]:
    """What to draw videos from: all of them, and where that gives nothing those that have an annotation."""
    if not len(dataset.videos):
        return
    yield dataset.videos
    if len(dataset.videos) < ENDLESS and (rest := [video for video in dataset.videos if len(video.annotated_frames())]):
        yield rest


def clip_times(reference: int, total: int, length: int, stride: int, rng: np.random.Generator) -> list[int]:
    """Frame numbers of a clip that holds frame `reference` of a video of `total` frames.

    The stride shrinks where the video is too short for it; a video shorter than the clip is played to and fro.
    """
    if total < length:
        lap = np.concatenate([np.arange(total), np.arange(total - 2, 0, -1)])
        start = reference - int(rng.integers(length))
        return [int(lap[(start + k) % len(lap)]) for k in range(length)]
    while True:
        span = stride * (length - 1)
        fewest = max(-((total - 1 - reference - span) // stride), 0)  # frames of the clip ahead of the reference
        most = min(reference // stride, length - 1)
        if fewest <= most:
            start = reference - stride * int(rng.integers(fewest, most + 1))
            return [start + stride * k for k in range(length)]
        stride -= 1
