"""The numbers that an FP16 or BF16 graph gives where these are computed as such, on a machine that has neither.

ONNX Runtime's CPU has few FP16 kernels: it computes in float32 and rounds only where a graph leaves FP16, so a chain of
a hundred FP16 operators is rounded once (ONNX Runtime 1.32; the test shows it), and of BF16 it has almost none. Here
every FP16 or BF16 tensor becomes a float32 one that is rounded to that type as soon as it is computed: products
accumulate in float32, results are rounded and overflow to infinity, as in a GPU's kernels. A library that fuses
operators rounds less often.

    python -m l2g.export.precision.emulate model.fp16.onnx --output emulated.onnx

The result has the contract of the original and runs wherever that runs, a little slower.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir

from l2g.artifacts.onnx_file import expect_onnx_name, read_contract, read_model, with_contract, with_sum
from l2g.errors import ContractError, ExportError, L2GError
from l2g.export.graph.values import array_of, producer_of
from l2g.export.precision.convert import BF16, FP16, FP32, MOVING
from l2g.files import refuse_overwriting, write_bytes

_NARROW = (FP16, BF16)


def emulate(model: ir.Model) -> ir.Model:
    """Replace, in place, every FP16 or BF16 tensor of `model` by a float32 tensor of the same value."""
    graph = model.graph
    if any(value.dtype in _NARROW for value in (*graph.inputs, *graph.outputs)):
        raise ExportError("a graph with 16-bit inputs or outputs found; those of l2g are float32 at its boundary")
    for value in list(graph.initializers.values()):
        if value.dtype in _NARROW:
            _widen(value)
    for node in list(graph):
        narrow = [(value, dtype) for value in node.outputs if (dtype := value.dtype) is not None and dtype in _NARROW]
        for value, _ in narrow:
            value.dtype = FP32
        if node.op_type == "Cast" and node.attributes["to"].as_int() in _NARROW:
            node.attributes["to"] = ir.AttrInt64("to", int(FP32))
        # What only moves such values moves values that are rounded already.
        if node.op_type not in MOVING and node.op_type != "DequantizeLinear":
            for value, dtype in narrow:
                _round(graph, value, dtype)
    return model


def _widen(value: ir.Value) -> None:
    array = array_of(value).astype("float32")
    value.const_value = ir.tensor(array, name=value.name)
    value.dtype = FP32


def _round(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> None:
    """Everything that reads `value` reads it rounded. ONNX Runtime keeps a pair of casts that a graph holds itself."""
    name = f"{producer_of(value).name}/Output_{value.index()}"
    down = ir.node("Cast", [value], {"to": dtype}, name=f"{name}/Round")
    up = ir.node("Cast", down.outputs, {"to": FP32}, name=f"{name}/Widen")
    down.outputs[0].name, up.outputs[0].name = f"{value.name}_rounded", f"{value.name}_widened"
    down.outputs[0].dtype, up.outputs[0].dtype = dtype, FP32
    down.outputs[0].shape = up.outputs[0].shape = value.shape
    value.replace_all_uses_with(up.outputs[0])
    down.replace_input_with(0, value)
    graph.insert_after(producer_of(value), [down, up])


def is_reduced(model: onnx.ModelProto) -> bool:
    """Whether anything in a graph is computed in FP16 or BF16."""
    narrow = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return any(value.type.tensor_type.elem_type in narrow for value in model.graph.value_info)


def emulate_file(path: str | Path, output: str | Path) -> Path:
    """The same for a file; its contract stays, with the sum of the new graph."""
    expect_onnx_name(output)
    refuse_overwriting([output], [path], ExportError)
    proto = read_model(path)
    if not is_reduced(proto):
        raise ExportError(
            f"{path}: no FP16 or BF16 tensor found, so there is nothing to emulate; run the file as it is"
        )
    try:
        contract = read_contract(proto, path)
    except ContractError:  # a graph alone
        contract = None
    del proto.metadata_props[:]
    graph = ir.to_proto(emulate(ir.from_proto(proto))).SerializeToString()
    if contract is not None:
        graph = with_contract(graph, replace(contract, build=with_sum(contract.build, graph)))
    write_bytes(output, graph, ExportError)
    return Path(output)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="precision_emulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("onnx", help="an FP16 or BF16 graph that l2g export wrote")
    parser.add_argument("--output", required=True, help="the ONNX file to write")
    options = parser.parse_args(argv)
    try:
        output = emulate_file(options.onnx, options.output)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{output}: computes in float32 what {options.onnx} computes in 16 bits")
    return 0


if __name__ == "__main__":
    sys.exit(main())
