"""A server in this process, for the client where no real one is: the calls of `tritonclient` that it makes, answered by
`ServedStreams`, and the sequence batcher's rule that a sequence begins with START."""

from __future__ import annotations

import json

import numpy as np

import l2g
from l2g.serving import wire
from l2g.serving.streams import ServedStreams, StreamRequest
from tests.runtime.blobs import CLASS_NAMES, BlobBackend


class RefusedError(Exception):
    """As InferenceServerException: its text, and a code."""

    def status(self):
        return "StatusCode.INVALID_ARGUMENT"


class Answer:
    def __init__(self, arrays):
        self._arrays = arrays

    def as_numpy(self, name):
        return self._arrays[name]


class InferInput:
    def __init__(self, name, shape, datatype):
        self.name, self.shape, self.datatype, self.array = name, shape, datatype, None

    def set_data_from_numpy(self, array):
        assert (list(array.shape), str(array.dtype)) == (self.shape, wire.DTYPES[self.datatype])
        self.array = array


class Server:
    """Both the module `tritonclient.grpc` and its client. fail: raised by the next request, once."""

    def __init__(self):
        self.fail = None
        self.sent = []
        self.start_again()

    def start_again(self):
        self.streams = ServedStreams(l2g.Tracker(BlobBackend()), idle=1e9)
        self.running = set()

    def InferenceServerClient(self, address, **_):  # noqa: N802 - the library's name
        self.address = address
        return self

    InferInput = InferInput

    def get_model_config(self, model, version, as_json=False):
        outputs = [{"name": spec.name} for spec in wire.OUTPUTS]
        names = {"class_names": {"string_value": json.dumps(CLASS_NAMES)}}
        config = {"name": model, "output": outputs, "parameters": names}
        return {"config": config} if as_json else config

    def infer(self, model, inputs, *, sequence_id, sequence_start, sequence_end, **how):
        self.sent.append((sequence_id, sequence_start, sequence_end, sorted(tensor.name for tensor in inputs)))
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        if not sequence_start and sequence_id not in self.running:
            raise RefusedError(
                f"sequence {sequence_id} must specify the START flag on the first request of the sequence"
            )
        self.running.add(sequence_id)
        values = {tensor.name: tensor.array[0] for tensor in inputs}
        picture = values.get("PICTURE")
        (answer,) = self.streams.step(
            [
                StreamRequest(
                    sequence_id,
                    start=sequence_start,
                    end=sequence_end,
                    frame=values.get("FRAME"),
                    picture=None if picture is None else picture[0],
                    time=float(values["TIME"][0]),
                    reset=bool(np.any(values.get("RESET", False))),
                )
            ]
        )
        if sequence_end:
            self.running.discard(sequence_id)
        if isinstance(answer, Exception):
            raise RefusedError(str(answer))
        return Answer(wire.arrays_of(answer))

    def close(self):
        self.address = None
