"""The client of a served model: frame in, tracks out, as `Tracker` does it in one process."""

from __future__ import annotations

import json
import random
import time as clock
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from l2g.errors import L2GError
from l2g.runtime.arrays import Array
from l2g.runtime.frame_result import FrameResult
from l2g.runtime.video.live.address import without_password
from l2g.serving import wire

# Above what a slow model takes for a frame, below what a person waits for.
TIMEOUT_SECONDS = 30.0
_SCHEMES = ("grpc", "http")
# What the server says of a request of a sequence that it does not know (any more).
_UNKNOWN_TO_SERVER, _UNKNOWN_TO_MODEL = "must specify the START flag", "has no state here"


@dataclass(eq=False)
class _Stream:
    """What the client knows of one stream.

    correlation: of its sequence. sent: the server may hold a slot for it. begun: it has answered. last_id, next_index:
    seen so far; after a sequence that was lost the server counts from the beginning, and the client adds `id_offset`
    and `index_offset`.
    """

    started: float
    correlation: int = field(default_factory=lambda: random.getrandbits(62) + 1)
    sent: bool = False
    begun: bool = False
    lost: bool = False
    reset: bool = False
    last_id: int = 0
    next_index: int = 0
    id_offset: int = 0
    index_offset: int = 0


class TritonTracker:
    """Segments and tracks with a model of a Triton server; `update` is that of `Tracker`, with the same results.

        with TritonTracker("grpc://localhost:8001", "l2g_tiny") as tracker:
            for frame in frames:                      # uint8 [H, W, 3] RGB
                for track in tracker.update(frame).tracks:
                    print(track.track_id, track.label, track.score, track.box)

    Args:
        url: "grpc://HOST:PORT" (8001 unless the server was told otherwise) or "http://HOST:PORT" (8000).
        model: a model that `l2g triton` made for tracks.
        version: of the model; "" is what the server's version policy chooses.
        timeout: seconds that an answer may take, waiting for a free slot of the server included.

    One client is driven from one thread; any number of clients share a server. Raises L2GError for a server that does
    not answer and for a model that returns no tracks.
    """

    def __init__(self, url: str, model: str, *, version: str = "", timeout: float = TIMEOUT_SECONDS):
        scheme, _, address = url.partition("://")
        if scheme not in _SCHEMES or not address:
            raise L2GError(f"'{without_password(url)}' found, grpc://HOST:PORT or http://HOST:PORT expected")
        if not timeout > 0:
            raise L2GError(f"a timeout of {timeout:g} s found, more than 0 expected")
        self._url, self._model, self._version, self._timeout = without_password(url), model, version, timeout
        self._streams: dict[Hashable, _Stream] = {}
        self._grpc = scheme == "grpc"
        self._library = _library(scheme)
        self._client: Any = (
            self._library.InferenceServerClient(address)
            if self._grpc
            else self._library.InferenceServerClient(address, connection_timeout=timeout, network_timeout=timeout)
        )
        try:
            config = self._config()
            wire.check_outputs([output["name"] for output in config.get("output", ())], model)
        except BaseException:
            self._client.close()
            raise
        self._class_names = tuple(json.loads(config["parameters"]["class_names"]["string_value"]))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The model's classes; a track's `label` is an index of them."""
        return self._class_names

    @property
    def streams(self) -> tuple[Hashable, ...]:
        """Keys of the streams that have given a frame, in that order."""
        return tuple(key for key, entry in self._streams.items() if entry.begun)

    def update(self, frame: np.ndarray | bytes, time: float | None = None, stream: Hashable = None) -> FrameResult:
        """The next frame of `stream`, and what is seen in it.

        Args:
            frame: uint8 [H, W, 3] RGB of any size, or the bytes of a JPEG or PNG file, which the server decodes: a
                tenth of the traffic, or less.
            time: seconds from the stream's first frame, for the result; None is when this call was made.
            stream: any hashable key; each is a sequence of the server. With one video leave it away.

        Raises L2GError for a frame that the server refuses, whose stream is then as it was before, and for a sequence
        that the server does not know any more: `reset` starts it anew.
        """
        if self._client is None:
            raise L2GError("this TritonTracker is closed; make another")
        entry = self._streams.setdefault(stream, _Stream(clock.monotonic()))
        if entry.lost:
            raise L2GError(self._lost(stream))
        moment = clock.monotonic() - entry.started if time is None else time
        arrays: dict[wire.WireTensor, Array] = {wire.TIME: np.array([[moment]])}
        if isinstance(frame, bytes):
            arrays[wire.PICTURE] = np.array([[frame]], object)
        else:
            arrays[wire.FRAME] = _checked(frame)[None]
        if entry.reset:
            arrays[wire.RESET] = np.array([[True]])
        answer = self._infer(stream, entry, arrays, start=not entry.begun)
        entry.begun, entry.reset = True, False
        result = wire.result_of(answer, self._class_names)
        if entry.id_offset or entry.index_offset:
            tracks = tuple(replace(track, track_id=track.track_id + entry.id_offset) for track in result.tracks)
            result = replace(result, tracks=tracks, index=result.index + entry.index_offset)
        entry.last_id = max((entry.last_id, *(track.track_id for track in result.tracks)))
        entry.next_index = result.index + 1
        return result

    def reset(self, stream: Hashable = None) -> None:
        """Forget a stream's history: its next frame is a first frame of any size. Its ids go on counting.

        Also what starts a stream anew that the server has lost.
        """
        entry = self._streams.get(stream)
        if entry is None:
            return
        if entry.lost:
            entry.lost = entry.begun = False
            entry.id_offset, entry.index_offset = entry.last_id, entry.next_index
        else:
            entry.reset = True

    def leave(self, stream: Hashable = None) -> None:
        """End a stream, which frees its state in the server. One that has not begun is no error."""
        entry = self._streams.pop(stream, None)
        if entry is None or entry.lost or not entry.sent:
            return
        try:
            self._infer(stream, entry, {wire.TIME: np.zeros((1, 1))}, end=True)
        except L2GError:
            if not entry.lost:
                raise

    def close(self) -> None:
        """End every stream. A closed client is not used again; closing twice is no error."""
        if self._client is None:
            return
        try:
            for stream in tuple(self._streams):
                self.leave(stream)
        finally:
            self._streams.clear()
            client, self._client = self._client, None
            client.close()

    def __enter__(self) -> TritonTracker:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        try:
            self.close()
        except L2GError:
            # What ended the block says more than that the server cannot be told of it.
            if kind is None:
                raise

    def _config(self) -> dict[str, Any]:
        try:
            if self._grpc:
                found: dict[str, Any] = self._client.get_model_config(self._model, self._version, as_json=True)
                return dict(found["config"])
            return dict(self._client.get_model_config(self._model, self._version))
        except Exception as error:
            raise self._refusal(None, None, error) from None

    def _infer(
        self,
        stream: Hashable,
        entry: _Stream,
        arrays: dict[wire.WireTensor, Array],
        start: bool = False,
        end: bool = False,
    ) -> dict[str, Array]:
        inputs = []
        for spec, array in arrays.items():
            tensor = self._library.InferInput(spec.name, list(array.shape), spec.datatype)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        how: dict[str, Any] = {"client_timeout": self._timeout} if self._grpc else {}
        entry.sent = True
        try:
            answer = self._client.infer(
                self._model,
                inputs,
                model_version=self._version,
                sequence_id=entry.correlation,
                sequence_start=start,
                sequence_end=end,
                # What waits for a slot in the server is given up there too.
                timeout=int(self._timeout * 1e6),
                **how,
            )
        except Exception as error:
            raise self._refusal(stream, entry, error) from None
        try:
            return {spec.name: answer.as_numpy(spec.name) for spec in wire.OUTPUTS}
        except ValueError as error:
            raise L2GError(
                f"{self._url}: model '{self._model}' answered with tensors that lack their bytes ({error}): before "
                "24.12 Triton cannot send arrays of NumPy 2; pip install 'numpy<2' 'opencv-python-headless<4.12' into "
                "the server's Python"
            ) from None

    def _refusal(self, stream: Hashable, entry: _Stream | None, error: Exception) -> L2GError:
        """What went wrong, in words of this class; any library may raise its own."""
        text = str(error)
        if entry is not None and (_UNKNOWN_TO_SERVER in text or _UNKNOWN_TO_MODEL in text):
            entry.lost = True
            return L2GError(self._lost(stream))
        if "Deadline Exceeded" in text or "timed out" in text or "has been expired" in text:
            if entry is not None and entry.begun:
                entry.lost = True  # nobody knows whether the frame counted
            return L2GError(
                f"{self._url}: no answer for model '{self._model}' within {self._timeout:g} s: the model is slower "
                "than that, or every slot of the server is taken; give a longer timeout, or make the repository with "
                "more --streams"
            )
        status = getattr(error, "status", None)
        code = status() if callable(status) else None
        if code in ("StatusCode.UNAVAILABLE", None) or isinstance(error, OSError):
            return L2GError(
                f"{self._url}: no Triton server answers here ({type(error).__name__}: {text}); start one, or check "
                "the port and whether it speaks gRPC or HTTP"
            )
        return L2GError(f"{self._url}: model '{self._model}': {text}")

    def _lost(self, stream: Hashable) -> str:
        named = "the stream" if stream is None else f"stream {stream!r}"
        argument = "" if stream is None else repr(stream)
        return (
            f"{self._url}: {named} is not known to the server any more: it was idle for longer than the model's idle "
            f"time, or the server was started again; call reset({argument}) to start it anew"
        )


def _library(scheme: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"tritonclient.{scheme}")
    except ModuleNotFoundError as error:
        raise L2GError(
            f"a client of Triton needs '{error.name}', which is not installed; pip install 'l2g[serving]'"
        ) from None


def _checked(frame: object) -> Array:
    if not isinstance(frame, np.ndarray):
        raise L2GError(f"{type(frame).__name__} found, a NumPy array uint8 [H, W, 3] RGB or bytes expected")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise L2GError(f"the frame is {frame.dtype} {list(frame.shape)}, uint8 [H, W, 3] RGB expected, 0..255")
    return np.ascontiguousarray(frame)
