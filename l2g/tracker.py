"""Frame in, tracks out: the model, its state, the letterbox and the identities behind one object."""

from __future__ import annotations

import os
import time as clock
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from l2g.contract import GraphContract
from l2g.errors import L2GError
from l2g.runtime.assembler import letterbox_of
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.open import ARTIFACT_SUFFIXES, open_backend
from l2g.runtime.frame_result import FrameResult
from l2g.runtime.identity.tracks import TrackParameters
from l2g.runtime.panoptic.options import PanopticOptions, check_task
from l2g.runtime.panoptic.task import Assembler, assembler_of
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.session import Session, VideoSession
from l2g.runtime.video.cuts import CutFinder, Cuts, cut_finder


@dataclass(eq=False)
class _Stream:
    """What is known of one stream; itself its key in the session."""

    assembler: Assembler
    cuts: CutFinder
    started: float
    frames: int = 0
    fresh: bool = True  # its next frame is a first frame
    reason: str | None = None  # why its next result begins anew; kept where a step fails

    def reset(self) -> None:
        self.assembler.reset()
        self.fresh, self.reason = True, None


class Tracker:
    """Segments and tracks the objects of one or several videos, frame by frame.

        with l2g.Tracker("model.onnx") as tracker:
            for frame in frames:                      # uint8 [H, W, 3] RGB
                for track in tracker.update(frame).tracks:
                    print(track.track_id, track.label, track.score, track.box)

    On the same frames the results are those of `process_video`, to the bit.

    Args:
        model: a checkpoint, an exported graph (.onnx), an engine (.engine), the name of a shipped model ("l2g_tiny"),
            or a backend that `open_backend` gave (with `top_k=None`, for masks at full precision), which stays open;
            or a session around one.
        score_threshold: lowest class probability that is shown, 0..1.
        top_k: at most this many queries of a frame are looked at, best score first.
        max_age: frames that a hidden track keeps its id.
        canvas: (height, width) of the network input, multiples of 32. None is the model's own; that of a checkpoint is
            turned upright if the first frames are.
        cuts: "auto" finds hard cuts, where a stream starts anew by itself as after `reset`; "off" does not; a sequence
            names their times in seconds. A result's `reset` says where it was.
        num_queries, num_heads, box_init, class_names: what a public checkpoint does not tell; see `load_checkpoint`.
        library, device, precision: what runs an exported graph; see `open_backend`.
        task: "instances"; "panoptic": each pixel to one thing or stuff, a result's `panoptic`, whose things are its
            tracks; "semantic": each pixel to a class. None is the model's own, panoptic where it knows stuff.
        panoptic: how slots become segments, in place of `score_threshold` and `top_k`.

    One `Tracker` is driven from one thread. Raises L2GError for a model that cannot be opened and for an option that
    does not fit it.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Backend | Session,
        *,
        score_threshold: float = 0.5,
        top_k: int = 50,
        max_age: int = 30,
        canvas: tuple[int, int] | None = None,
        num_queries: int | None = None,
        num_heads: int | None = None,
        box_init: str | None = None,
        class_names: tuple[str, ...] | None = None,
        cuts: Cuts = "auto",
        library: str | None = None,
        device: str | None = None,
        precision: str | None = None,
        task: str | None = None,
        panoptic: PanopticOptions | None = None,
    ):
        cut_finder(cuts)  # refuses what is none
        self._cuts = cuts
        self._parameters = TrackParameters(birth_score=score_threshold, max_age=max_age)
        if top_k < 1:
            raise L2GError(f"top-k {top_k} found, at least 1 expected")
        self._top_k, self._task, self._panoptic = top_k, task, panoptic
        self._streams: dict[Hashable, _Stream] = {}
        # Opens the checkpoint again, upright: until the first frames have shown which way up they are.
        self._upright: Callable[[], Backend] | None = None
        facts: dict[str, Any] = {"canvas": canvas, "num_queries": num_queries, "num_heads": num_heads}
        facts |= {"box_init": box_init, "class_names": class_names}
        facts |= {"library": library, "device": device, "precision": precision}
        self._owned = isinstance(model, (str, os.PathLike))
        if isinstance(model, (str, os.PathLike)):
            opening = partial(open_backend, os.fspath(model), top_k=None, **facts)
            self._session: Session | None = VideoSession(self._checked(opening()))
            if canvas is None and Path(model).suffix.lower() not in ARTIFACT_SUFFIXES:
                self._upright = partial(opening, portrait=True)
            return
        given = [name for name, value in facts.items() if value is not None]
        if given:
            raise L2GError(f"{', '.join(given)} given with an open backend, which has its own; leave it away")
        check_task(task, model.contract)
        self._session = model if isinstance(model, Session) else VideoSession(model)

    @property
    def contract(self) -> GraphContract:
        """The model's: its canvas, its classes, how it was made."""
        return self._opened().contract

    @property
    def class_names(self) -> tuple[str, ...]:
        """The model's classes; a track's `label` is an index of them."""
        return self.contract.class_names

    @property
    def streams(self) -> tuple[Hashable, ...]:
        """Keys of the streams that have given a frame, in that order."""
        return tuple(self._streams)

    def update(self, frame: np.ndarray, time: float | None = None, stream: Hashable = None) -> FrameResult:
        """The next frame of `stream`, and what is seen in it.

        Args:
            frame: uint8 [H, W, 3] RGB of any size (OpenCV gives BGR: `frame[..., ::-1]`). A stream may change its size
                while its aspect ratio stays: a camera that changes its resolution goes on with its tracks.
            time: seconds from the stream's first frame, for the result; None is when this call was made. It plays no
                part in tracking, which counts frames.
            stream: any hashable key; each has tracks and ids of its own. With one video leave it away.

        Raises L2GError for a frame of another dtype or shape, and for a stream whose aspect ratio changes without a
        `reset`. The stream is then as it was before.
        """
        times = None if time is None else {stream: time}
        return self.update_many({stream: frame}, times)[stream]

    def update_many(
        self, frames: Mapping[Hashable, np.ndarray], times: Mapping[Hashable, float] | None = None
    ) -> dict[Hashable, FrameResult]:
        """The next frame of several streams, in one step of the model: on a GPU much faster than one by one.

        Args:
            frames: uint8 [H, W, 3] RGB by stream, each of its own size. Streams without a frame here stay untouched.
            times: seconds by stream, as in `update`; a stream may be left out.

        Returns each stream's result by its key. Raises as `update` does; if one frame is refused no stream advances.
        """
        now = clock.monotonic()
        for stream, frame in frames.items():
            _check_frame(stream, frame)
        self._turn_upright(frames)
        session, contract = self._opened(), self.contract
        letterboxes = {stream: self._letterbox(stream, frame, contract) for stream, frame in frames.items()}
        entries = {stream: self._place(stream, box, session, now) for stream, box in letterboxes.items()}
        moments = {stream: (times or {}).get(stream, now - entry.started) for stream, entry in entries.items()}
        canvases = {}
        for stream, entry in entries.items():
            box = letterboxes[stream]
            canvas = canvases[entry] = box.to_canvas(np.ascontiguousarray(frames[stream]), contract.pad_value)
            if entry.cuts.is_cut(box.content(canvas), moments[stream]) and entry.frames:
                entry.reason = "cut"
            if entry.reason:
                session.reset(entry)
        outputs = session.step(canvases)
        results = {}
        for stream, entry in entries.items():
            results[stream] = entry.assembler.assemble(outputs[entry], entry.frames, moments[stream], entry.reason)
            entry.frames += 1
            entry.fresh, entry.reason = False, None
        return results

    def check(self, frame: np.ndarray, stream: Hashable = None) -> None:
        """Raise what `update` would of a frame, uint8 [H, W, 3], that does not fit its stream; nothing advances."""
        _check_frame(stream, frame)
        self._letterbox(stream, frame, self.contract)

    def reset(self, stream: Hashable = None) -> None:
        """Forget a stream's history, after a cut or before another video: its next frame is a first frame of any size.

        Its ids go on counting, so that none comes twice, and so do `index` and `time`. Other streams are untouched; a
        stream that has not begun is as good as reset.
        """
        entry = self._streams.get(stream)
        if entry is not None:
            self._opened().reset(entry)
            entry.reset()

    def leave(self, stream: Hashable = None) -> None:
        """Forget a stream altogether, with its ids, and free its memory. One that has not begun is no error."""
        entry = self._streams.pop(stream, None)
        if entry is not None:
            self._opened().leave(entry)

    def close(self) -> None:
        """Free the model, unless it was given open. A closed tracker is not used again; closing twice is no error."""
        if self._session is not None and self._owned:
            self._session.close()
        self._session = None
        self._streams.clear()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _checked(self, backend: Backend) -> Backend:
        """A backend of this tracker's own that can do its task; else it is closed."""
        try:
            check_task(self._task, backend.contract)
        except L2GError:
            backend.close()
            raise
        return backend

    def _opened(self) -> Session:
        if self._session is None:
            raise L2GError("this Tracker is closed; make another")
        return self._session

    def _turn_upright(self, frames: Mapping[Hashable, np.ndarray]) -> None:
        """Before the first step: open a checkpoint again with its canvas upright if all frames are, as run does."""
        upright, self._upright = self._upright, None if frames else self._upright
        if upright and frames and all(frame.shape[0] > frame.shape[1] for frame in frames.values()):
            self._opened().close()
            self._session = None
            self._session = VideoSession(upright())

    def _letterbox(self, stream: Hashable, frame: np.ndarray, contract: GraphContract) -> Letterbox:
        """The letterbox of a stream's frame; L2GError where the picture would lie elsewhere on the canvas than before.

        The state's boxes and the masks that identities are held by are places on the canvas.
        """
        height, width = frame.shape[:2]
        entry = self._streams.get(stream)
        if entry is None:
            return letterbox_of(contract, height, width)
        before = entry.assembler.letterbox
        if (before.source_height, before.source_width) == (height, width):
            return before
        after = letterbox_of(contract, height, width)
        # Two sizes of one aspect ratio may round to a pixel more or less.
        moved = max(abs(before.content_height - after.content_height), abs(before.content_width - after.content_width))
        if moved > 1 and not entry.fresh:
            raise L2GError(
                f"{_name(stream)}: a frame of {height}x{width} found after frames of {before.source_height}x"
                f"{before.source_width}, which is another aspect ratio; call reset({_argument(stream)}) before another "
                "video begins, or give each video a stream key of its own"
            )
        return after

    def _place(self, stream: Hashable, letterbox: Letterbox, session: Session, now: float) -> _Stream:
        """The stream, joined if it is new, with the letterbox of this frame."""
        entry = self._streams.get(stream)
        if entry is None:
            contract = session.contract
            assembler = assembler_of(letterbox, contract, self._parameters, self._top_k, self._task, self._panoptic)
            entry = self._streams[stream] = _Stream(assembler, cut_finder(self._cuts), now)
            session.join(entry)
        entry.assembler.letterbox = letterbox
        return entry


def _check_frame(stream: Hashable, frame: np.ndarray) -> None:
    if not isinstance(frame, np.ndarray):
        raise L2GError(f"{_name(stream)}: {type(frame).__name__} found, a NumPy array uint8 [H, W, 3] RGB expected")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise L2GError(
            f"{_name(stream)}: the frame is {frame.dtype} {list(frame.shape)}, uint8 [H, W, 3] RGB expected, 0..255"
        )


def _name(stream: Hashable) -> str:
    return "the stream" if stream is None else f"stream {stream!r}"


def _argument(stream: Hashable) -> str:
    return "" if stream is None else repr(stream)
