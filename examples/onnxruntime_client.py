"""Drives an exported video graph with NumPy and ONNX Runtime alone: all there is to know stands in the file.

    python examples/onnxruntime_client.py MODEL.onnx FRAMES.npy OUTPUTS.npz [RESET ...]

FRAMES.npy: uint8 [T, B, height, width, 3], T frames of B streams, RGB, on the canvas that the contract names.
RESET: frame numbers at which every stream starts anew, a cut for example. docs/concepts/state.md explains the loop.
"""

import json
import sys

import numpy as np
import onnxruntime


def drive(model, video, resets=()):
    """Yield {output name: array} of each frame."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    contract = json.loads(session.get_modelmeta().custom_metadata_map["l2g.contract"])
    if contract["schema_version"] not in (1, 2, 3, 4):
        sys.exit(f"contract schema version {contract['schema_version']} found, 1 to 4 expected")
    inputs = {spec["name"]: spec for spec in contract["inputs"]}
    outputs = [spec["name"] for spec in contract["outputs"]]
    carried = {state["input"]: state["output"] for state in contract["states"]}
    valid_input = contract["valid_input"]
    # Of an image model every frame is a first one; which slots are one object is to be found by their queries.
    carries = contract["association"] != "embedding"
    (frames_input,) = inputs.keys() - carried.keys() - {valid_input}
    streams = video.shape[1]

    def shape(name):
        return [streams if size == "B" else size for size in inputs[name]["shape"]]

    if list(video[0].shape) != shape(frames_input):
        sys.exit(f"frames are {list(video[0].shape)}, expected {inputs[frames_input]['shape']}")
    state = {name: np.zeros(shape(name), inputs[name]["dtype"]) for name in carried}
    for time, frames in enumerate(video):
        # 0 for a stream's first frame: its state is not looked at. One number per stream.
        valid = np.full((streams, 1), carries and time > 0 and time not in resets, np.float32)
        results = session.run(outputs, {frames_input: frames, valid_input: valid, **state})
        named = dict(zip(outputs, results, strict=True))
        # What came out goes in again: float32, the same row for the same stream.
        state = {name: named[output] for name, output in carried.items()}
        yield named


def main():
    model, frames, target, *resets = sys.argv[1:]
    steps = list(drive(model, np.load(frames), {int(reset) for reset in resets}))
    np.savez(target, **{name: np.stack([step[name] for step in steps]) for name in steps[0]})


if __name__ == "__main__":
    main()
