"""Proof that an FP16 or BF16 graph is the float32 graph it was made from, but for that type's rounding.

No fixed tolerance serves every model: one with random weights multiplies a rounding by thousands, a trained one does
not. So the graph is held to what the model itself makes of the type: how far the float32 graph gets when nothing but
its weights are rounded. Both run with the model's decisions (`verification.decisions`) from the model's state, so that
what is compared is arithmetic; the graph is run as a library that has the type computes it
(`l2g.export.precision.emulate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from l2g.contract import GraphContract
from l2g.errors import ExportError
from l2g.export.graph.node_builder import Builder
from l2g.export.graph.values import constant, input_of, named, producer_of
from l2g.export.precision.convert import FP32, MOVING, Reduced
from l2g.export.precision.emulate import emulate
from l2g.export.verification.comparison import differences, tolerance
from l2g.export.verification.decisions import expose_decisions
from l2g.export.verification.rollouts import ROLLOUTS, Step
from l2g.export.verification.verify import open_session, run
from l2g.progress import SILENT, Progress
from l2g.provenance import ReducedVerification, Verification

# Rounding every tensor may cost this many times what rounding the weights alone costs. Measured: 1.1 to 2.7 (the
# shipped models, a random R50, a small Swin). While the weights of islands were rounded too, which allows more: one
# layer's weights off by a tenth 37 and more, a single weight 8 to 10, swapped streams 59.
FACTOR = 8.0
# Of the root mean square of all mask logits: a pixel nearer to zero may be mask or not, so boxes may reach that far.
MASK_MARGIN = 0.05
# What the weights alone may not move at all in a few frames (a box, a chosen slot): mean square roots allowed anyway.
FLOORS = {"boxes": 0.01, "labels": 0.01, "slots": 0.01, "scores": 1e-3, "masks": 1.0, "weights": 0.01}
# Constants of fewer values are sizes and limits of an island, not weights.
SMALL = 16


def verify_reduced(
    target: Reduced,
    float32: bytes,
    reduced: bytes,
    contract: GraphContract,
    steps: Sequence[Step],
    verified: Verification,
    progress: Progress = SILENT,
) -> ReducedVerification:
    """Hold the reduced graph to the model's own steps. float32: the float32 graph, itself `verified`. Both without
    plugins.

    Raises ExportError where a tensor leaves the type's range (its name and block, and how to keep it float32), and
    where an output is further from the model than the type explains.
    """
    sums = _Sums(target, contract)
    weights, names = _watched(float32, target, reduced, steps[0])
    largest = dict.fromkeys(names, 0.0)
    # One graph after the other: side by side, with every tensor of theirs twice or three times, two of a Swin-L at
    # 480x864 take more than 18 GB.
    for step, (outputs, maxima) in _outputs(weights, contract, steps):
        # The priors of a fresh stream are NaN, and so is what is made of them until it is left out.
        largest = {name: float(np.fmax(largest[name], m)) for name, m in zip(names, maxima, strict=True)}
        _check_range(target, largest, names, step)
        sums.add(sums.floor, step, outputs)
        progress.step()
    del weights
    for step, (outputs, _) in _outputs(_emulated(reduced, steps[0]), contract, steps):
        sums.add(sums.reduced, step, outputs)
        progress.step()
    return sums.judge(verified, max(largest.items(), key=lambda item: item[1], default=("none", 0.0)))


def _watched(float32: bytes, target: Reduced, reduced: bytes, first: Step) -> tuple[bytes, dict[str, str]]:
    """The float32 graph with rounded weights, the model's decisions as inputs and, after all else, an output for the
    magnitude of each of the named tensors; these as in `reduced_tensors`."""
    weights = _rounded_weights(float32, target, _parse(reduced))
    known = {value.name for node in weights.graph for value in node.outputs}
    names = {name: node for name, node in reduced_tensors(_parse(reduced), target).items() if name in known}
    return _serialise(_with_maxima(_with_decisions(weights, first), names)), names


def _emulated(reduced: bytes, first: Step) -> bytes:
    return _serialise(_with_decisions(emulate(_parse(reduced)), first))


def _with_decisions(model: ir.Model, first: Step) -> ir.Model:
    return model if first.decisions is None else expose_decisions(model, first.decisions.slots)


def _outputs(
    graph: bytes, contract: GraphContract, steps: Sequence[Step]
) -> Iterator[tuple[Step, tuple[list[np.ndarray], list[np.ndarray]]]]:
    """Of every step, with the model's decisions, the contract's outputs and what comes after the decisions."""
    session = open_session(graph, arena=False)
    count = len(contract.outputs)
    for step in steps:
        decisions = () if step.decisions is None else step.decisions.arrays()
        outputs = run(session, (*step.inputs, *decisions))
        yield step, (outputs[:count], outputs[count + len(decisions) :])


def reduced_tensors(model: ir.Model, target: Reduced) -> dict[str, str]:
    """The tensors that a graph computes in the type or casts to it, in order, by the names of their float32 originals;
    each with the node that is to blame if the type cannot hold it: what computes it, or what wants it cast."""
    found = {}
    for node in model.graph:
        value = node.outputs[0]
        if node.op_type == "Cast" and value.dtype == target.dtype and input_of(node, 0).producer() is not None:
            if input_of(node, 0).dtype == FP32 and (readers := value.consumers()):
                found[named(input_of(node, 0))] = named(readers[0])
        elif node.op_type not in MOVING and node.op_type != "Cast" and value.dtype == target.dtype:
            found[named(value).removesuffix(f"_{target.suffix}")] = named(node)
    return found


class _Sums:
    """Squares of differences from the model, of the graph with rounded weights (`floor`) and of the reduced graph."""

    def __init__(self, target: Reduced, contract: GraphContract):
        self.target, self.contract = target, contract
        names = [spec.name for spec in contract.outputs]
        self.floor, self.reduced = ({name: [0.0, 0] for name in names} for _ in range(2))
        self.largest = dict.fromkeys(names, 0.0)

    def add(self, sums: dict[str, list], step: Step, outputs: list[np.ndarray]) -> None:
        """sums: `floor` or `reduced`, whichever graph's outputs these are."""
        margin = MASK_MARGIN * float(step.output.mask_logits.square().mean().sqrt())
        for name, values in differences(self.contract, step, outputs, margin).items():
            sums[name][0] += float(np.square(values, dtype=np.float64).sum())
            sums[name][1] += values.size
            if sums is self.reduced:
                self.largest[name] = max(self.largest[name], _or_infinite(values.max()))

    def judge(self, verified: Verification, activation: tuple[str, float]) -> ReducedVerification:
        import onnxruntime

        errors, floors = (
            {name: (total / count) ** 0.5 for name, (total, count) in sums.items()}
            for sums in (self.reduced, self.floor)
        )
        limits = {name: max(FACTOR * floor, FLOORS.get(name, 0.0), tolerance(name)) for name, floor in floors.items()}
        worst = max(errors, key=lambda name: _or_infinite(errors[name] / limits[name]))
        if not errors[worst] <= limits[worst]:
            raise ExportError(
                f"the {self.target.name} graph differs from the model by more than {self.target.name} explains: output "
                f"'{worst}' by "
                f"{errors[worst]:.3g} (root mean square; {limits[worst]:.3g} allowed, {FACTOR:g} times what rounded "
                f"weights alone cost); all outputs: "
                + ", ".join(f"{name} {errors[name]:.3g}/{limits[name]:.3g}" for name in errors)
                + ". Nothing was written; --precision auto (or bf16 with --dataset) finds the blocks that hurt, "
                "--fp32-blocks keeps them"
            )
        library = f"onnxruntime {onnxruntime.__version__} CPU, {self.target.name} emulated"
        return ReducedVerification(library, ROLLOUTS, self.largest, errors, limits, activation, verified)


def _or_infinite(number: Any) -> float:
    """NaN compares as less than nothing, and would be passed over."""
    return float(np.nan_to_num(number, nan=np.inf))


def _check_range(target: Reduced, largest: dict[str, float], nodes: dict[str, str], step: Step) -> None:
    from l2g.export.graph.blocks import block_of

    for name, value in largest.items():
        if not value <= target.largest:
            raise ExportError(
                f"tensor '{name}' reaches {value:.3g} in frame {step.frame} of the rollout with {step.streams} "
                f"streams, {target.name} ends at {target.largest:g}; it is the first to overflow. Nothing was written; "
                f"keep its block in float32 with --fp32-blocks {block_of(nodes[name])}, or use --precision auto"
            )


def _rounded_weights(graph: bytes, target: Reduced, reduced: ir.Model) -> ir.Model:
    """The float32 graph, of whose weights those are rounded that the reduced graph has so.

    Those alone: rounded, the tables and weights of an island would move the rows that deformable attention reads, and
    so allow anything.
    """
    model = _parse(graph)
    for value in model.graph.initializers.values():
        if f"{value.name}_{target.suffix}" not in reduced.graph.initializers:
            continue
        array = constant(value) if value.dtype == FP32 else None
        if array is not None and array.size >= SMALL:
            value.const_value = ir.tensor(_round(array, target.bits), name=value.name)
    return model


def _round(array: np.ndarray, bits: int) -> np.ndarray:
    """To so many bits, but without the type's end: a block that stays float32 may have weights beyond it."""
    fraction, exponent = np.frexp(array)
    return np.ldexp(np.rint(fraction * 2**bits) / 2**bits, exponent).astype(np.float32)


def _with_maxima(model: ir.Model, names: dict[str, str]) -> ir.Model:
    """One more scalar output for each of the named tensors: its largest magnitude."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name in names:
        value = values[name]
        build = Builder(model.graph, f"{producer_of(value).name}/Output_{value.index()}/Magnitude")
        result = build.op("ReduceMax", build.op("Abs", value), keepdims=0)
        result.dtype, result.shape = FP32, ir.Shape([])
        model.graph.insert_after(producer_of(value), build.nodes)
        model.graph.outputs.append(result)
    return model


def _parse(graph: bytes) -> ir.Model:
    return ir.from_proto(onnx.load_from_string(graph))


def _serialise(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString()
