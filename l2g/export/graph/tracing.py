"""The traced graph of a model at a fixed canvas, with every number that the canvas decides folded into constants.

The model is traced at two numbers of streams, and each trace folded with all its shapes known. What differs between
the two graphs afterwards is where the number of streams enters, and nothing else may (see `graph.batch_axis`).
Deformable attention stays one node, `l2g.DeformableAttention`, which `l2g.export.deformable.lowering` replaces.
"""

from __future__ import annotations

import io
import warnings

import onnx
import onnx_ir as ir
import torch
from torch.onnx import symbolic_helper

from l2g.contract import GraphContract
from l2g.errors import ExportError
from l2g.export.deformable.node import DOMAIN, OPERATOR
from l2g.export.graph.batch_axis import generalise
from l2g.export.graph.folding import fold
from l2g.export.graph.shapes import nothing_computed
from l2g.export.graph.sigmoid import spell_out_box_sigmoids
from l2g.modeling.family.protocol import VideoModel
from l2g.modeling.stateless_step import StatelessStep
from l2g.progress import SILENT, Progress

# Two numbers of streams greater than one, so that nothing is traced as a broadcast, and different, so that they show.
STREAMS = (2, 3)


def trace(model: VideoModel, contract: GraphContract, opset: int, progress: Progress = SILENT) -> ir.Model:
    """The graph of `contract` (its inputs and outputs, B dynamic) for `model`, deformable attention not yet lowered."""
    top_k = None if contract.output_kind == "raw" else int(contract.output("scores").shape[1])
    step = StatelessStep(model, top_k).eval()
    traces = []
    for streams in STREAMS:
        traces.append(fold(_trace(step, contract, opset, streams)))
        progress.step()
    return spell_out_box_sigmoids(generalise(traces[0], traces[1], STREAMS))


def _trace(step: StatelessStep, contract: GraphContract, opset: int, streams: int) -> ir.Model:
    """One trace with every shape fixed. The exporter that follows TorchScript is asked for by name: it is ten times as
    fast as the other one (4 s against 45 s for a small model), and after folding the graphs are equivalent."""
    buffer = io.BytesIO()
    for operator, symbolic in SYMBOLICS.items():
        torch.onnx.register_custom_op_symbolic(operator, symbolic, opset)
    try:
        # Its warnings tell that Python values become constants (wanted here) and that there is a newer exporter.
        with warnings.catch_warnings(), torch.no_grad(), nothing_computed(step):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                step,
                example_inputs(contract, streams),
                buffer,  # type: ignore[arg-type]  # the exporter of TorchScript takes a file, its signature does not say so
                dynamo=False,
                opset_version=opset,
                input_names=[spec.name for spec in contract.inputs],
                output_names=[spec.name for spec in contract.outputs],
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(
            f"PyTorch {torch.__version__} cannot export this model at opset {opset}: {str(error).splitlines()[0]}; "
            "use the versions that l2g[export] asks for"
        ) from error
    finally:
        for operator in SYMBOLICS:
            torch.onnx.unregister_custom_op_symbolic(operator, opset)
    return ir.from_proto(onnx.load_from_string(buffer.getvalue()))


def example_inputs(contract: GraphContract, streams: int) -> tuple[torch.Tensor, ...]:
    """Inputs of the right shapes for a trace; the values do not matter."""
    generator = torch.Generator().manual_seed(0)
    frames, *state = [(streams, *(int(dim) for dim in spec.shape[1:])) for spec in contract.inputs]
    return (
        torch.randint(0, 256, frames, dtype=torch.uint8, generator=generator),
        *(torch.rand(shape, generator=generator) for shape in state),
    )


def _deformable_attention(g, value, shapes, locations, weights):
    """The operator as one node; the trace knows all sizes, so its output gets one too."""
    node = g.op(
        f"{DOMAIN}::{OPERATOR}", value, locations, weights, shapes_i=symbolic_helper._maybe_get_const(shapes, "is")
    )
    b, _, heads, depth = value.type().sizes()
    node.setType(value.type().with_sizes([b, locations.type().sizes()[1], heads * depth]))
    return node


def _pad(g, x, pads, mode, value):
    """Padding with zeros by known amounts: PyTorch's own computes them in the graph, behind which no size is known."""
    pads = symbolic_helper._maybe_get_const(pads, "is")
    sizes = x.type().sizes()
    added = [0] * (len(sizes) - len(pads) // 2), [0] * (len(sizes) - len(pads) // 2)
    before, after = (start + pads[index::2][::-1] for index, start in enumerate(added))
    node = g.op("Pad", x, g.op("Constant", value_t=torch.tensor([*before, *after])), mode_s="constant")
    node.setType(x.type().with_sizes([b + size + a for b, size, a in zip(before, sizes, after, strict=True)]))
    return node


# Operators that are written into the graph in another way than PyTorch's.
SYMBOLICS = {"l2g::deformable_attention": _deformable_attention, "aten::pad": _pad}
