"""The one loop over a data set: its videos as streams of one session or several, each joined and left at its ends.

    for round_ in rounds(lanes, [session], frames=frames_of(dataset)):
        outputs = step(session, round_)
        for lane in round_:
            use(outputs[lane.place])

What is to be done with a frame is the caller's, and so is what is kept of a video, in a class derived from `Lane`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from tqdm import tqdm

from l2g.contract import GraphContract
from l2g.data.dataset import Video, VideoDataset
from l2g.data.vipseg import PanopticVideo
from l2g.errors import DataError, L2GError
from l2g.runtime.arrays import ByteArray
from l2g.runtime.assembler import letterbox_of
from l2g.runtime.outputs import RawOutputs
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.session import VideoSession


@dataclass(eq=False)
class Lane:
    """One video on its way through the sessions; callers derive from it what they keep of a video.

    place: in the data set, and the stream's name in the sessions. contract: of the model, for the canvas. length:
    frames to run, all unless told. time: the frame that the lane is at, -1 before the first. image: uint8
    [height, width, 3] RGB, and canvas: uint8 [H, W, 3], of that frame.
    """

    place: int
    video: Video
    contract: GraphContract
    length: int = 0
    time: int = field(default=-1, init=False)
    image: ByteArray = field(init=False, repr=False)
    canvas: ByteArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.length = self.length or self.video.length
        self.letterbox: Letterbox = letterbox_of(self.contract, self.video.height, self.video.width)

    @property
    def last(self) -> bool:
        """Whether the video ends with the frame that the lane is at."""
        return self.time == self.length - 1

    def advance(self) -> None:
        """Read the next frame; where it has a map of things and stuff, what cannot be scored is not run."""
        self.time += 1
        self.image = self.video.frame(self.time)
        if isinstance(self.video, PanopticVideo):
            self.video.panoptic(self.time)
        self.canvas = self.letterbox.to_canvas(self.image)


AnyLane = TypeVar("AnyLane", bound=Lane)


def rounds(
    lanes: Iterable[AnyLane],
    sessions: Sequence[VideoSession],
    *,
    frames: int,
    streams: int = 4,
    progress: bool = True,
    what: str = "frames",
    leave_out: Callable[[int, DataError], None] | None = None,
) -> Iterator[list[AnyLane]]:
    """Take every lane from its first frame to its last, at most `streams` at once; gives those that stand at a new one.

    The caller steps the sessions, which it may do in any way, before it asks for the next round. A lane's stream has
    joined them then, and leaves them after its last frame. lanes: made when their turn comes, if that is how they are
    given. frames: of all lanes, for the progress bar `what`, which is drawn on a terminal only. leave_out: called with
    the place of a lane whose next frame cannot be read, and why; that lane ends there. Without it the error ends all,
    after the round of the others.
    """
    if streams < 1:
        raise L2GError(f"{streams} streams asked for, at least 1 expected")
    waiting = iter(lanes)
    running: list[AnyLane] = []
    with tqdm(total=frames, desc=what, disable=None if progress else True) as bar:
        while True:
            while len(running) < streams and (lane := next(waiting, None)) is not None:
                for session in sessions:
                    session.join(lane.place)
                running.append(lane)
            if not running:
                return
            errors = {lane.place: error for lane in running if (error := _advance(lane))}
            ended = [lane for lane in running if lane.place in errors]
            if ready := [lane for lane in running if lane not in ended]:
                yield ready
            for place, error in errors.items():
                if leave_out is None:
                    raise error
                leave_out(place, error)
            bar.update(len(ready) + sum(lane.length - lane.time for lane in ended))
            for lane in [lane for lane in running if lane in ended or lane.last]:
                for session in sessions:
                    session.leave(lane.place)
                running.remove(lane)


def _advance(lane: Lane) -> DataError | None:
    """Read the lane's next frame; why it cannot be read, else None."""
    try:
        lane.advance()
    except DataError as error:
        return error
    return None


def step(session: VideoSession, round_: Iterable[Lane]) -> dict[int, RawOutputs]:
    """Step a session of a model with raw outputs; what it gives, by the lanes' places, B = 1."""
    return cast("dict[int, RawOutputs]", session.step({lane.place: lane.canvas for lane in round_}))


def frames_of(dataset: VideoDataset) -> int:
    """Frames of all its videos. DataError where it has no video."""
    if not len(dataset.videos):
        raise DataError(f"data set '{dataset.name}' holds no video; choose another split")
    return sum(video.length for video in dataset.videos)
