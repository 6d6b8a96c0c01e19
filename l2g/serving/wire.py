"""What crosses the wire: the tensors of the model that takes frames and returns tracks, and results as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from l2g.errors import L2GError
from l2g.runtime.arrays import Array
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.picture.masks import InstanceMask


@dataclass(frozen=True)
class WireTensor:
    """A tensor by Triton's name of its type; `shape` without the batch's axis, -1 for what varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


# Triton's names of types, and NumPy's.
DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT64": "uint64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
TYPE_OF = {numpy: triton for triton, numpy in DTYPES.items()}

# A request has one of the first two, or neither with its END: then a sequence ends without a further frame.
FRAME = WireTensor("FRAME", "UINT8", (-1, -1, 3))
PICTURE = WireTensor("PICTURE", "BYTES", (1,))
TIME = WireTensor("TIME", "FP64", (1,))
RESET = WireTensor("RESET", "BOOL", (1,))
INPUTS = (FRAME, PICTURE, TIME, RESET)

# Controls, which the server fills in.
START, END, READY, CORRELATION = "START", "END", "READY", "CORRID"

# M tracks, best score first, as in `FrameResult`; M may be 0.
OUTPUTS = (
    WireTensor("TRACK_IDS", "INT64", (-1,)),
    WireTensor("SLOTS", "INT32", (-1,)),
    WireTensor("LABELS", "INT32", (-1,)),
    WireTensor("FRAME_LABELS", "INT32", (-1,)),
    WireTensor("SCORES", "FP32", (-1,)),
    WireTensor("BOXES", "INT32", (-1, 4)),
    WireTensor("MASKS", "BYTES", (-1,)),
    WireTensor("SIZE", "INT32", (2,)),
    WireTensor("INDEX", "INT64", (1,)),
    WireTensor("SECONDS", "FP64", (1,)),
    WireTensor("BEGAN", "BYTES", (1,)),
)

# What a sequence without a frame in this step is answered with.
NOTHING = FrameResult(-1, 0.0, ())


def arrays_of(result: FrameResult) -> dict[str, Array]:
    """A result as the arrays of `OUTPUTS`, with a batch of 1 in front."""
    tracks = result.tracks
    values: dict[str, object] = {
        "TRACK_IDS": result.track_ids,
        "SLOTS": [track.slot for track in tracks],
        "LABELS": result.labels,
        "FRAME_LABELS": [track.frame_label for track in tracks],
        "SCORES": result.scores,
        "BOXES": result.boxes,
        "MASKS": [track.rle["counts"].encode() for track in tracks],
        "SIZE": (result.height, result.width),
        "INDEX": (result.index,),
        "SECONDS": (result.time,),
        "BEGAN": ((result.reset or "").encode(),),
    }
    return {spec.name: np.array(values[spec.name], DTYPES[spec.datatype])[None] for spec in OUTPUTS}


def result_of(arrays: Mapping[str, Array], class_names: tuple[str, ...]) -> FrameResult:
    """The result that `arrays_of` was given, to the bit."""
    rows = {name: array[0] for name, array in arrays.items()}
    height, width = rows["SIZE"].tolist()
    columns = ("TRACK_IDS", "SLOTS", "LABELS", "SCORES", "FRAME_LABELS", "BOXES", "MASKS")
    tracks = []
    for track_id, slot, label, score, frame_label, box, counts in zip(
        *(rows[name].tolist() for name in columns), strict=True
    ):
        x1, y1, x2, y2 = box
        pixels = coco_mask.decode({"size": [height, width], "counts": counts})
        mask = InstanceMask(height, width, y1, x1, pixels[y1:y2, x1:x2].astype(bool))
        tracks.append(TrackedInstance(track_id, slot, label, score, frame_label, mask))
    return FrameResult(
        index=int(rows["INDEX"][0]),
        time=float(rows["SECONDS"][0]),
        tracks=tuple(tracks),
        height=height,
        width=width,
        class_names=class_names,
        reset=bytes(rows["BEGAN"][0]).decode() or None,
    )


def check_outputs(names: list[str], model: str) -> None:
    """L2GError unless these are the outputs of a model that returns tracks."""
    if missing := [spec.name for spec in OUTPUTS if spec.name not in names]:
        raise L2GError(
            f"model '{model}' of the server has no output '{missing[0]}' and so returns no tracks; name the one that "
            "`l2g triton` made, not its graph"
        )
