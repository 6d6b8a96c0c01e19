"""What crosses the boundary of a per-frame graph: its tensors, its state and how a runtime is to drive it.

A contract travels inside the artifact (ONNX `metadata_props`, key `l2g.contract`) or beside it (an engine's sidecar),
so that a runtime needs the artifact and nothing else. This module imports neither torch nor an inference library.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from l2g.errors import ContractError
from l2g.provenance import BuildFacts
from l2g.untrusted.contract_rules import check_contract, parse_contract

if TYPE_CHECKING:
    import numpy as np

# What a contract can say by schema version; it is written in the lowest one that says all of it.
#   1  states queries and boxes, sigmoid scores, frames letterboxed
#   2  besides: state pairs of any names and shapes, boxes or none, `scoring`, frames squashed
#   3  besides: `stuff_classes`
#   4  besides: maps of masks that are not a quarter of the canvas
SCHEMA_VERSIONS = (1, 2, 3, 4)
METADATA_KEY = "l2g.contract"

# How class logits become probabilities: "sigmoid", each class for itself; "softmax", over the classes and a last one
# more, "no object".
SCORINGS = ("sigmoid", "softmax")
# How a frame gets onto the canvas: "letterbox", the aspect ratio kept, top left, padded right and bottom; "squash",
# each side stretched or shrunk to the canvas's.
RESIZES = ("letterbox", "squash")

# By which Mask DINO's panoptic inference divides the probabilities of a sigmoid before a softmax sharpens them.
TEMPERATURE = 0.06

# Normalisation of detectron2 and of every public Mask DINO checkpoint: RGB, 0..255.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
# The canvas beside the picture: the uint8 colour nearest to zero after normalisation (where the public code pads).
PAD_VALUE = (124, 116, 104)
# Pixels of the canvas per cell of the map of a mask, unless the shape of a contract's masks says otherwise.
MASK_STRIDE = 4


@dataclass(frozen=True)
class TensorSpec:
    """One tensor at the boundary. `shape` holds ints, or names such as "B" for what varies from call to call."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def sized(self, streams: int) -> tuple[int, ...]:
        """The shape for so many streams."""
        return tuple(streams if isinstance(dim, str) else dim for dim in self.shape)

    def check(self, array: np.ndarray) -> None:
        """Raise ContractError unless `array` (anything with `dtype` and `shape`) fits this spec."""
        fits = len(array.shape) == len(self.shape) and all(
            isinstance(want, str) or want == have for want, have in zip(self.shape, array.shape, strict=True)
        )
        if str(array.dtype) != self.dtype or not fits:
            raise ContractError(
                f"tensor '{self.name}': found {array.dtype} {list(array.shape)}, "
                f"expected {self.dtype} [{', '.join(map(str, self.shape))}]"
            )


@dataclass(frozen=True)
class StateSpec:
    """One recurrent pair: what a frame returns as `output` is the next frame's `input`.

    `initial` is the only defined initial content ("zeros"; with the validity input at 0 any content is harmless).
    A stream is reset by setting its row of the contract's `valid_input` to 0 for one frame.
    """

    input: str
    output: str
    initial: str = "zeros"


@dataclass(frozen=True)
class GraphContract:
    """Everything a runtime has to know of one artifact.

    Attributes:
        inputs, outputs: the tensors, in the graph's order.
        states: the recurrent pairs.
        valid_input: name of the float32 [B, 1] input that is 0 on a stream's first frame or reset, else 1.
        output_kind: "raw" (logits and all mask logits) or "detections" (the best M instances).
        height, width: the network canvas in pixels.
        scoring: how logits become class probabilities, one of `SCORINGS`.
        resize: how a frame gets onto the canvas, one of `RESIZES`.
        pad_value: RGB of a letterbox's padding.
        mean, std: the normalisation that the graph itself applies to 0..255 RGB.
        class_names: one per class, in the order of the logits.
        stuff_classes: the classes that are stuff, ascending places in `class_names`; the others are things. Empty for a
            model of instances.
        association: "propagate" (slots are identities) or "embedding" (an image model: slots are linked between frames
            by the runtime, and every frame is a first frame).
        model: the ModelConfig as a plain dict.
        build: how the artifact was made: precision, lowering, opset, sums, versions, verification.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]
    height: int
    width: int
    class_names: tuple[str, ...]
    association: str = "propagate"
    output_kind: str = "raw"
    valid_input: str = "prior_valid"
    resize: str = "letterbox"
    pad_value: tuple[int, int, int] = PAD_VALUE
    mean: tuple[float, float, float] = PIXEL_MEAN
    std: tuple[float, float, float] = PIXEL_STD
    model: dict[str, Any] = field(default_factory=dict)
    build: BuildFacts = field(default_factory=BuildFacts)
    scoring: str = "sigmoid"
    stuff_classes: tuple[int, ...] = ()

    @property
    def mask_size(self) -> tuple[int, int]:
        """(height, width) of the map of a mask, which covers the canvas."""
        shapes = (spec.shape for spec in self.outputs if spec.name in ("mask_logits", "masks"))
        height, width = next(((h, w) for *_, h, w in shapes), _quarter(self.height, self.width))
        return int(height), int(width)

    @property
    def schema_version(self) -> int:
        """The lowest of `SCHEMA_VERSIONS` that says all of this contract."""
        if self.mask_size != _quarter(self.height, self.width):
            return 4
        if self.stuff_classes:
            return 3
        plain = self.scoring == "sigmoid" and self.resize == "letterbox"
        return 1 if plain and self.states == _FIRST_STATES else 2

    def input(self, name: str) -> TensorSpec:
        return _named(self.inputs, name, "input")

    def output(self, name: str) -> TensorSpec:
        return _named(self.outputs, name, "output")

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts and lists, in the order of the fields; what its schema version has."""
        data = {**asdict(self), "build": self.build.to_json()}
        for name, first in _FIRST_VERSIONS.items():
            if self.schema_version < first:
                del data[name]
        return {**data, "schema_version": self.schema_version}

    @classmethod
    def from_json(cls, text: str) -> GraphContract:
        """Parse `text`, of any of `SCHEMA_VERSIONS`.

        Raises ContractError when it is not JSON, of another schema version, lacks a field, has one of another type or
        range (`untrusted.contract_rules`), or says what no runtime of this version knows: another scoring or resize.
        """
        data = parse_contract(text)
        found = data["schema_version"]
        if found not in SCHEMA_VERSIONS:
            raise ContractError(
                f"contract schema version {found!r} found, {', '.join(map(str, SCHEMA_VERSIONS))} expected; "
                "export the model again with this version of l2g"
            )
        try:
            del data["schema_version"]
            for name, first in _FIRST_VERSIONS.items():
                if (name in data) == (found < first):
                    raise KeyError(name)
            data["inputs"] = tuple(_tensor(spec) for spec in data["inputs"])
            data["outputs"] = tuple(_tensor(spec) for spec in data["outputs"])
            data["states"] = tuple(StateSpec(**spec) for spec in data["states"])
            for key in ("class_names", "pad_value", "mean", "std"):
                data[key] = tuple(data[key])
            data["stuff_classes"] = tuple(data.get("stuff_classes", ()))
            data["build"] = BuildFacts.from_json(data.get("build", {}))
            contract = cls(**data)
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"the contract is incomplete or damaged ({error}); export the model again") from None
        contract.check_known()
        check_contract(contract)
        return contract

    def check_known(self) -> None:
        """ContractError where it asks for what this version of l2g does not know."""
        for name, found, known in (("scoring", self.scoring, SCORINGS), ("resize mode", self.resize, RESIZES)):
            if found not in known:
                raise ContractError(
                    f"{name} '{found}' found in the contract, one of {', '.join(known)} expected; export the model "
                    "again with this version of l2g, or use the version that made it"
                )


# Fields that came later, by the version that has them.
_FIRST_VERSIONS = {"scoring": 2, "stuff_classes": 3}
_FIRST_STATES = (StateSpec("prior_queries", "queries"), StateSpec("prior_boxes", "boxes"))


def make_contract(
    *,
    height: int,
    width: int,
    num_queries: int,
    hidden_dim: int,
    class_names: tuple[str, ...],
    association: str,
    top_k: int | None = None,
    boxes: bool = True,
    scoring: str = "sigmoid",
    resize: str = "letterbox",
    stuff_classes: tuple[int, ...] = (),
    mask_size: tuple[int, int] | None = None,
    mean: tuple[float, float, float] = PIXEL_MEAN,
    std: tuple[float, float, float] = PIXEL_STD,
    model: dict[str, Any] | None = None,
    build: BuildFacts | None = None,
) -> GraphContract:
    """The contract of a graph whose slots carry queries [N, C] and, where the model has `boxes`, boxes [N, 4].

    top_k: instances chosen in the graph; None means raw outputs. mask_size: (height, width) of the map of a mask, a
    quarter of the canvas unless told. Where there are `stuff_classes` what is chosen has weights, too, with which slots
    compete for pixels.
    """
    b, n, (h, w) = "B", num_queries, mask_size or _quarter(height, width)
    carried = {"queries": hidden_dim, **({"boxes": 4} if boxes else {})}
    result: tuple[TensorSpec, ...]
    if top_k is None:
        result = (
            TensorSpec("logits", "float32", (b, n, len(class_names) + (scoring == "softmax"))),
            TensorSpec("mask_logits", "float32", (b, n, h, w)),
        )
    else:
        result = (
            TensorSpec("scores", "float32", (b, top_k)),
            TensorSpec("labels", "int32", (b, top_k)),
            TensorSpec("slots", "int32", (b, top_k)),
            TensorSpec("masks", "uint8", (b, top_k, h, w)),
            *([TensorSpec("weights", "float32", (b, top_k))] if stuff_classes else []),
        )
    return GraphContract(
        inputs=(
            TensorSpec("frames", "uint8", (b, height, width, 3)),
            *(TensorSpec(f"prior_{name}", "float32", (b, n, size)) for name, size in carried.items()),
            TensorSpec("prior_valid", "float32", (b, 1)),
        ),
        outputs=tuple(TensorSpec(name, "float32", (b, n, size)) for name, size in carried.items()) + result,
        states=tuple(StateSpec(f"prior_{name}", name) for name in carried),
        height=height,
        width=width,
        class_names=class_names,
        association=association,
        output_kind="raw" if top_k is None else "detections",
        resize=resize,
        mean=mean,
        std=std,
        scoring=scoring,
        stuff_classes=stuff_classes,
        model=model or {},
        build=build or BuildFacts(),
    )


def _quarter(height: int, width: int) -> tuple[int, int]:
    return height // MASK_STRIDE, width // MASK_STRIDE


def _tensor(spec: dict[str, Any]) -> TensorSpec:
    return TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"]))


def _named(specs: tuple[TensorSpec, ...], name: str, kind: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    raise ContractError(f"no {kind} named '{name}'; the contract has {[spec.name for spec in specs]}")
