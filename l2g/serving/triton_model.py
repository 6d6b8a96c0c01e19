"""What Triton's Python backend loads from a `model.py`: frames in, tracks out, the state by correlation id.

Runs inside the server alone, which brings `triton_python_backend_utils`.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

from l2g.contract import GraphContract
from l2g.errors import L2GError
from l2g.runtime.arrays import Array
from l2g.runtime.backends.open import open_backend
from l2g.runtime.session import Session, VideoSession
from l2g.serving import wire
from l2g.serving.graph_session import GraphCall, GraphSession
from l2g.serving.options import check_numpy, gpu_of_instance
from l2g.serving.streams import ServedStreams, StreamRequest
from l2g.tracker import Tracker

CONTRACT_FILE = "contract.json"
# How often silent streams are looked for.
_SWEEP_SECONDS = 1.0


class TritonPythonModel:
    """One instance: its own model, and the streams that the server has given to it."""

    def initialize(self, args: Mapping[str, str]) -> None:
        check_numpy(np.__version__, os.environ.get("NVIDIA_TRITON_SERVER_VERSION", ""))
        config = json.loads(args["model_config"])
        options = {name: entry["string_value"] for name, entry in config.get("parameters", {}).items()}
        if args["model_instance_kind"] == "GPU":
            # Each instance is a process of its own.
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu_of_instance(args["model_instance_device_id"], visible)
        folder = Path(args["model_repository"]) / args["model_version"]
        cuts = options["cuts"]
        tracker = Tracker(
            _session(folder, options),
            score_threshold=float(options["score_threshold"]),
            top_k=int(options["top_k"]),
            max_age=int(options["max_age"]),
            cuts=cuts if cuts in ("auto", "off") else tuple(map(float, cuts.split(","))),
            task="instances",  # tracks are what travels back
        )
        idle = int(config["sequence_batching"]["max_sequence_idle_microseconds"]) / 1e6
        self._streams = ServedStreams(tracker, idle)
        family = pb.MetricFamily(
            name="l2g_streams", description="Streams whose state is held", kind=pb.MetricFamily.GAUGE
        )
        labels = {"model": args["model_name"], "instance": args["model_instance_name"]}
        # The family has to outlive its metric.
        self._family, self._gauge, self._shown = family, family.Metric(labels=labels), 0
        self._closed = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="l2g-sweep", daemon=True)
        self._sweeper.start()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        answers = self._streams.step([_request(request) for request in requests])
        self._show()
        return [_response(answer) for answer in answers]

    def finalize(self) -> None:
        self._closed.set()
        self._sweeper.join()
        self._streams.close()

    def _sweep(self) -> None:
        while not self._closed.wait(_SWEEP_SECONDS):
            self._streams.expire()
            self._show()

    def _show(self) -> None:
        count = self._streams.count
        # To set it asks the server and waits for its answer.
        if count != self._shown:
            self._gauge.set(count)
            self._shown = count


def _session(folder: Path, options: Mapping[str, str]) -> Session:
    if "graph" in options:
        contract = GraphContract.from_json((folder / CONTRACT_FILE).read_text("utf-8"))
        run = _GraphRunner(options["graph"], int(folder.name))
        session = GraphSession(contract, run)
        run.outputs = session.outputs
        return session
    how: dict[str, Any] = {name: options[name] for name in ("library", "device", "precision") if name in options}
    return VideoSession(open_backend(folder / options["model"], top_k=None, **how))


class _GraphRunner:
    """Calls another model of this server, in this one's own version where several are served; calls that come together
    are in the server together, where it batches."""

    def __init__(self, model: str, version: int):
        self._model, self._version = model, version
        self.outputs: list[str] = []

    def __call__(self, calls: Sequence[GraphCall]) -> list[Mapping[str, Array]]:
        async def together() -> list[Any]:
            return list(await asyncio.gather(*(self._request(call).async_exec() for call in calls)))

        # One alone needs no loop.
        responses = [self._request(calls[0]).exec()] if len(calls) == 1 else asyncio.run(together())
        return [self._arrays(response) for response in responses]

    def _request(self, call: GraphCall) -> Any:
        flags = call.start * pb.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
        flags |= call.end * pb.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END
        return pb.InferenceRequest(
            model_name=self._model,
            model_version=self._version,
            requested_output_names=self.outputs,
            inputs=[pb.Tensor("frames", call.frames)],
            correlation_id=call.correlation,
            flags=flags,
            # Of a graph on a GPU too: tracks are made here, on the CPU.
            preferred_memory=pb.PreferredMemory(pb.TRITONSERVER_MEMORY_CPU, 0),
        )

    def _arrays(self, response: Any) -> Mapping[str, Array]:
        if response.has_error():
            raise L2GError(f"model '{self._model}': {response.error().message()}")
        # Copies: the shared memory of a response goes with it.
        return {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}


def _request(request: Any) -> StreamRequest:
    def value(name: str) -> Any:
        tensor = pb.get_input_tensor_by_name(request, name)
        return None if tensor is None else tensor.as_numpy()[0]

    frame, picture, time, reset = (value(spec.name) for spec in wire.INPUTS)
    return StreamRequest(
        correlation=int(value(wire.CORRELATION)[0]),
        start=bool(value(wire.START)[0]),
        end=bool(value(wire.END)[0]),
        ready=bool(value(wire.READY)[0]),
        frame=frame,
        picture=None if picture is None else bytes(picture[0]),
        time=None if time is None else float(time[0]),
        reset=reset is not None and bool(reset[0]),
    )


def _response(answer: Any) -> Any:
    if isinstance(answer, L2GError):
        return pb.InferenceResponse([], pb.TritonError(str(answer)))
    return pb.InferenceResponse([pb.Tensor(name, array) for name, array in wire.arrays_of(answer).items()])
