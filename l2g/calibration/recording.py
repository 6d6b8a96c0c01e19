"""Calibration data: frames, each with the state that the model itself carried there.

Ranges that were taken with zeros in the state's place are those of a model that never runs. So the FP32 graph is run
over videos, and frames are kept as they come by: first frames, later ones, ones in which an object is hidden, and
first frames after a reset in the middle of a video.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2g.contract import GraphContract
from l2g.data.dataset import Video, VideoDataset
from l2g.errors import ContractError, DataError
from l2g.evaluation.lanes import Lane, rounds, step
from l2g.files import write_atomically
from l2g.runtime.backends.base import Backend, HostState
from l2g.runtime.session import VideoSession

KINDS = ("first", "reset", "occluded", "later")
# What the state of a recorded frame is replaced by, to measure what recording it was worth.
STATES = ("rollout", "zeros", "random")
# An object counts as hidden where it has less than half the pixels it usually has, or none between two frames with.
HIDDEN = 0.5


@dataclass(frozen=True)
class Sample:
    """One frame of one stream and the state before it.

    inputs: by the contract's names, B = 1. kind: one of KINDS. video, time: where it comes from.
    """

    inputs: dict[str, np.ndarray]
    kind: str
    video: int
    time: int


@dataclass(frozen=True)
class RecordingOptions:
    """videos: how many, evenly spread over the data set. frames: kept of each. span: frames run of each at most."""

    videos: int = 8
    frames: int = 12
    span: int = 72

    def __post_init__(self):
        for name, least in (("videos", 1), ("frames", 2), ("span", 2)):
            if getattr(self, name) < least:
                raise DataError(f"{name} {getattr(self, name)} found for calibration, at least {least} expected")


class Recording:
    """The samples in a folder, one .npz a video."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.files = sorted(self.folder.glob("video_*.npz"))

    def __iter__(self) -> Iterator[Sample]:
        for file in self.files:
            yield from read_samples(file)

    def shares(self) -> dict[str, float]:
        """Percent of the samples that are of each kind."""
        counts = Counter(sample.kind for sample in self)
        return {kind: 100 * counts[kind] / max(sum(counts.values()), 1) for kind in KINDS}

    def __len__(self) -> int:
        return sum(1 for _ in self)


def record(
    backend: Backend, dataset: VideoDataset, folder: Path, options: RecordingOptions, progress: bool = True
) -> Recording:
    """Run `backend` (raw outputs, FP32) over the data set's videos and keep samples in `folder`.

    A video whose file is there is not run again. Every second video is reset in its middle. Raises DataError for a data
    set without videos and L2GError for a frame that cannot be read.
    """
    if not len(dataset.videos):
        raise DataError(f"data set '{dataset.name}' holds no video to calibrate on; choose another split")
    folder.mkdir(parents=True, exist_ok=True)
    # `synthetic:train` has no end; its first videos are as good as any.
    available = min(len(dataset.videos), 10_000)
    count = min(options.videos, available)
    files = {place: folder / f"video_{place:04d}.npz" for place in range(count)}
    for file in files.values():
        if file.is_file():
            _check_recorded(file, backend.contract)
    lanes = [
        _Lane(place, dataset.videos[place * available // count], backend.contract, options)
        for place, file in files.items()
        if not file.is_file()
    ]
    total = sum(lane.length for lane in lanes)
    # Not closed: the backend is the caller's.
    session = VideoSession(backend)
    for round_ in rounds(lanes, [session], frames=total, streams=1, progress=progress, what="rollouts"):
        (lane,) = round_
        if lane.time == lane.reset:
            session.reset(lane.place)
        if lane.time in lane.kinds:
            lane.keep(session.states()[lane.place])
        step(session, round_)
        if lane.last:
            write_samples(files[lane.place], lane.samples)
            lane.samples = []
    return Recording(folder)


def plan(length: int, hidden: np.ndarray, frames: int, reset: int | None) -> dict[int, str]:
    """Which frames of a video to keep, and what kind each is.

    hidden: int [F], frames in which an object is hidden: up to half of the later frames are taken from these. reset:
    the frame before which the state is forgotten.
    """
    chosen = {0: "first"}
    if reset is not None:
        chosen[reset] = "reset"
    hidden = np.array([t for t in hidden if t < length and t not in chosen], int)
    room = min(frames, length) - len(chosen)
    chosen |= {int(t): "occluded" for t in _spread(hidden, room // 2)}
    others = np.array([t for t in range(length) if t not in chosen], int)
    chosen |= {int(t): "later" for t in _spread(others, min(frames, length) - len(chosen))}
    return dict(sorted(chosen.items()))


def hidden_frames(video: Video) -> np.ndarray:
    """int64 [F]: frames in which the annotation says, or its masks let us see, that an object is partly hidden."""
    hidden = np.zeros(video.length, bool)
    for areas, grades in _objects(video):
        seen = np.flatnonzero(areas > 0)
        if not len(seen):
            continue
        inside = np.arange(video.length)
        inside = (inside >= seen[0]) & (inside <= seen[-1])
        if grades is None:
            hidden |= inside & (areas < HIDDEN * np.median(areas[seen]))
        else:
            hidden |= inside & np.array([grade in (None, "severe_occlusion") for grade in grades])
    return np.flatnonzero(hidden)


def with_state(sample: Sample, state: str, seed: int = 0) -> dict[str, np.ndarray]:
    """The sample's inputs with the state it was recorded with, or with zeros or random numbers in its place.

    Random boxes lie anywhere, all else that is random is standard normal; it counts as valid, or it would have no
    effect.
    """
    if state == "rollout":
        return sample.inputs
    inputs = dict(sample.inputs)
    rng = np.random.default_rng([seed, sample.video, sample.time])
    if state not in STATES:
        raise ValueError(f"state '{state}' found, one of {', '.join(STATES)} expected")
    for name in [name for name in inputs if name.startswith("prior_") and name != "prior_valid"]:
        shape = inputs[name].shape
        if state == "zeros":
            inputs[name] = np.zeros(shape, np.float32)
        elif name == "prior_boxes":
            inputs[name] = rng.random(shape, dtype=np.float32)
        else:
            inputs[name] = rng.standard_normal(shape, dtype=np.float32)
    if sample.kind not in ("first", "reset"):
        inputs["prior_valid"] = np.ones((1, 1), np.float32)
    return inputs


def read_samples(file: Path) -> list[Sample]:
    """The samples of one video; DataError for a damaged file."""
    try:
        with np.load(file) as data:
            names = [name for name in data.files if name not in ("kind", "time", "video")]
            arrays = {name: data[name] for name in names}
            kinds, times, video = data["kind"], data["time"], int(data["video"])
        lengths = {len(array) for array in (kinds, times, *arrays.values())}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(f"{min(lengths)} to {max(lengths)} frames in its arrays")
        return [
            Sample({name: array[i : i + 1] for name, array in arrays.items()}, KINDS[kinds[i]], video, int(times[i]))
            for i in range(len(times))
        ]
    except Exception as error:  # zipfile, numpy and zlib each have their own
        raise DataError(f"{file}: not a recording ({error}); delete it, and it is recorded again") from None


def _check_recorded(file: Path, contract: GraphContract) -> None:
    """DataError where a recording that is there is not of what the model takes."""
    for sample in read_samples(file):
        try:
            if sample.inputs.keys() != {spec.name for spec in contract.inputs}:
                raise ContractError(f"{', '.join(sorted(sample.inputs))} found")
            for spec in contract.inputs:
                spec.check(sample.inputs[spec.name])
        except ContractError as error:
            raise DataError(
                f"{file}: not a recording for this model ({error}); delete it, and it is recorded again"
            ) from None


def write_samples(file: Path, samples: list[Sample]) -> None:
    """All samples of one video; the file appears whole or not at all."""
    arrays = {name: np.concatenate([sample.inputs[name] for sample in samples]) for name in samples[0].inputs}
    with write_atomically(file, DataError) as temporary, temporary.open("wb") as stream:
        facts = {
            "kind": np.array([KINDS.index(sample.kind) for sample in samples], np.int8),
            "time": np.array([sample.time for sample in samples]),
            "video": np.array(samples[0].video),
        }
        np.savez_compressed(stream, allow_pickle=True, **arrays, **facts)


class _Lane(Lane):
    """One video on its way. kinds: of the frames to keep. reset: the frame before which its state is forgotten."""

    def __init__(self, place: int, video: Video, contract: GraphContract, options: RecordingOptions):
        span = min(video.length, options.span)
        self.reset = span // 2 if place % 2 and span >= 4 else None
        self.kinds = plan(span, hidden_frames(video), options.frames, self.reset)
        self.samples: list[Sample] = []
        super().__init__(place, video, contract, length=max(self.kinds) + 1)

    def keep(self, state: HostState) -> None:
        """A sample of the frame that the lane is at, and the state before it."""
        valid = state.valid[:, None].astype(np.float32)
        inputs = {"frames": self.canvas[None], **state.tensors, self.contract.valid_input: valid}
        self.samples.append(Sample(inputs, self.kinds[self.time], self.place, self.time))


def _objects(video: Video) -> Iterator[tuple[np.ndarray, list | None]]:
    """Each object's visible area by frame, and its grades of occlusion where the annotation has them."""
    objects = getattr(video, "objects", None)
    if objects is None:
        yield from ((masks.sum((1, 2)), None) for masks in _masks(video))
        return
    for item in objects:
        if item.iscrowd:
            continue
        areas = item.record.get("areas")
        if areas is None or len(areas) != video.length:
            areas = [float(bool(segmentation)) for segmentation in item.segmentations]
        grades = item.record.get("occlusion")
        grades = grades if isinstance(grades, list) and len(grades) == video.length else None
        yield np.array([area or 0 for area in areas], float), grades


def _masks(video: Video) -> np.ndarray:
    """bool [I, T, H, W] of a video that is drawn on demand."""
    clip = video.read(range(video.length))
    masks = np.zeros((len(clip.labels), video.length, *clip.masks.shape[2:]), bool)
    masks[:, clip.times] = clip.masks
    return masks


def _spread(items: np.ndarray, count: int) -> np.ndarray:
    """So many of the items, evenly spread and in order."""
    count = min(count, len(items))
    return items[np.arange(count) * len(items) // max(count, 1)]
