"""What a contract may say: every field's type and range, and how they hang together.

Whoever reads a contract believes it: it sizes buffers, scales colours, names classes. So all of it is checked when it
is read, before anything is made by it. Sizes have limits, since a damaged number would be asked of the memory.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn, TypeAlias

from l2g.errors import ContractError

# A contract and a tensor of it: `l2g.contract` stands on this, so that their types are not known here.
Contract: TypeAlias = Any
Tensor: TypeAlias = Any

ASSOCIATIONS = ("propagate", "embedding")
KINDS = ("raw", "detections")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DTYPES = ("float32", "float16", "uint8", "int8", "int32", "int64", "bool")

# Far beyond every model of the field. MOST_ELEMENTS: of one tensor and stream, 4 GiB in float32.
MOST_PIXELS, MOST_ELEMENTS, MOST_STREAMS, MOST_CLASSES, MOST_BYTES = 1 << 14, 1 << 30, 1 << 12, 1 << 17, 1 << 44
_LISTS = ("inputs", "outputs", "states", "class_names", "stuff_classes", "pad_value", "mean", "std")


def parse_contract(text: str) -> dict[str, Any]:
    """The JSON object of a contract, its lists being lists and its version a whole number; ContractError otherwise."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise ContractError(f"the contract is not a JSON object: {reason}; export the model again") from None
    if not isinstance(data, dict):
        raise ContractError(f"the contract is not a JSON object but {_kind(data)}; export the model again")
    if type(data.get("schema_version")) is not int:
        _refuse("schema_version", data.get("schema_version"), "a whole number")
    for name in _LISTS:
        if name in data and not isinstance(data[name], list):
            _refuse(name, data[name], "a list")
    for name in ("inputs", "outputs"):
        for spec in data.get(name, ()):
            if not isinstance(spec, dict) or not isinstance(spec.get("shape", []), list):
                _refuse(f"{name} entry", spec, "an object with name, dtype and a list as shape")
    return data


def check_contract(contract: Contract) -> None:
    """ContractError, which names the field, unless every field is of its type and range and fits the others."""
    _check_tensors("inputs", contract.inputs)
    _check_tensors("outputs", contract.outputs)
    for name in ("height", "width"):
        _whole(name, getattr(contract, name), 1, MOST_PIXELS)
    _check_states(contract)
    _one_of("association", contract.association, ASSOCIATIONS)
    _one_of("output_kind", contract.output_kind, KINDS)
    _one_of("valid_input", contract.valid_input, [spec.name for spec in contract.inputs])
    _text("resize", contract.resize)
    _check_masks(contract)
    _check_classes(contract)
    _check_colours(contract)
    if not isinstance(contract.model, dict):
        _refuse("model", contract.model, "an object")
    _check_build(contract)


def _check_tensors(name: str, specs: tuple[Tensor, ...]) -> None:
    for spec in specs:
        _text(f"{name}: name", spec.name)
        _one_of(f"{name}.{spec.name}: dtype", spec.dtype, DTYPES)
        for dim in spec.shape:
            if isinstance(dim, str):
                _text(f"{name}.{spec.name}: shape", dim)
            else:
                _whole(f"{name}.{spec.name}: shape", dim, 1, MOST_ELEMENTS)
        elements = math.prod(dim for dim in spec.shape if isinstance(dim, int))
        if elements > MOST_ELEMENTS or len(spec.shape) > 8:
            _refuse(f"{name}.{spec.name}: shape", list(spec.shape), f"at most {MOST_ELEMENTS} numbers for a stream")
    if not specs:
        _refuse(name, [], "at least one tensor")
    _once(name, (spec.name for spec in specs))


def _check_states(contract: Contract) -> None:
    inputs, outputs = [spec.name for spec in contract.inputs], [spec.name for spec in contract.outputs]
    for state in contract.states:
        _one_of("states: input", state.input, inputs)
        _one_of("states: output", state.output, outputs)
        _one_of("states: initial", state.initial, ("zeros",))
    for side in ("input", "output"):
        _once(f"states: {side}", (getattr(state, side) for state in contract.states))


def _check_masks(contract: Contract) -> None:
    """A map of a mask has a size that is known, and each of its cells a pixel at least."""
    for spec in contract.outputs:
        if spec.name in ("mask_logits", "masks"):
            if len(spec.shape) != 4 or not all(isinstance(dim, int) for dim in spec.shape[2:]):
                _refuse(f"outputs.{spec.name}: shape", list(spec.shape), "four sizes, the last two whole numbers")
            _whole(f"outputs.{spec.name}: height", spec.shape[2], 1, contract.height)
            _whole(f"outputs.{spec.name}: width", spec.shape[3], 1, contract.width)


def _check_classes(contract: Contract) -> None:
    if not 1 <= len(contract.class_names) <= MOST_CLASSES:
        _refuse("class_names", f"{len(contract.class_names)} names", f"1 to {MOST_CLASSES}")
    for class_name in contract.class_names:
        _text("class_names", class_name)
    for place in contract.stuff_classes:
        _whole("stuff_classes", place, 0, len(contract.class_names) - 1)
    if list(contract.stuff_classes) != sorted(set(contract.stuff_classes)):
        _refuse("stuff_classes", list(contract.stuff_classes), "ascending places, each once")
    logits = next((spec for spec in contract.outputs if spec.name == "logits"), None)
    # Softmax has one logit more, of "no object".
    more = getattr(contract, "scoring", "sigmoid") == "softmax"
    if logits and logits.shape and logits.shape[-1] != len(contract.class_names) + more:
        _refuse("class_names", f"{len(contract.class_names)} names", f"one for each class of logits {logits.shape}")


def _check_colours(contract: Contract) -> None:
    for name in ("pad_value", "mean", "std"):
        if len(getattr(contract, name)) != 3:
            _refuse(name, list(getattr(contract, name)), "three numbers, one for each of R, G and B")
    for level in contract.pad_value:
        _whole("pad_value", level, 0, 255)
    for name, least in (("mean", -sys.float_info.max), ("std", 0.0)):
        for value in getattr(contract, name):
            if type(value) not in (int, float) or not least < value <= sys.float_info.max:
                _refuse(name, value, "a finite number" + " above 0" * (name == "std"))


def _check_build(contract: Contract) -> None:
    build = contract.build
    if build.max_streams is not None:
        _whole("build.max_streams", build.max_streams, 1, MOST_STREAMS)
    if build.graph_bytes is not None:
        _whole("build.graph_bytes", build.graph_bytes, 1, MOST_BYTES)
    if build.opset is not None:
        _whole("build.opset", build.opset, 1, 1000)
    if build.precision is not None:
        _one_of("build.precision", build.precision, PRECISIONS)
    if build.graph_sha256 is not None:
        if not re.fullmatch("[0-9a-f]{64}", build.graph_sha256):
            _refuse("build.graph_sha256", build.graph_sha256, "64 hexadecimal digits")
        if build.graph_bytes is None:
            _refuse("build.graph_bytes", None, "the length that graph_sha256 is the sum of")


def _whole(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        _refuse(name, value, f"a whole number from {least} to {most}")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value or len(value) > 1000 or not _printable(value):
        _refuse(name, value, "a text without control characters")


def _printable(text: str) -> bool:
    """Whether a text goes into every file and onto every terminal."""
    return not any(ord(letter) < 32 or "\ud800" <= letter <= "\udfff" for letter in text)


def _one_of(name: str, value: object, known: Iterable[str]) -> None:
    known = list(known)
    if not isinstance(value, str) or value not in known:
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        _refuse(name, value, f"one of {shown}")


def _once(name: str, values: Iterable[str]) -> None:
    values = list(values)
    for value in values:
        if values.count(value) > 1:
            _refuse(name, value, "each name once")


def _refuse(name: str, found: object, expected: str) -> NoReturn:
    shown = ascii(found)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    raise ContractError(
        f"the contract's {name}: {shown} found, expected {expected}; export the model again with this version of l2g"
    )


def _kind(data: object) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(data), type(data).__name__)
