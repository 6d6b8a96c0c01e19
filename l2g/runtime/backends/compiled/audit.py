"""What a traced step computes in: every convolution and product of its list of operators, by the types that go in."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx, nn

from l2g.artifacts.records import Audit

_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_ATTENTION = "aten._scaled_dot_product"
_FUSED = "l2g.fused_deformable_attention"


@dataclass(frozen=True)
class Product:
    """One convolution, matrix product or attention. name: the layer whose weights it has; of one without weights the
    layer before it. flops: for all streams. precision: "fp32", "fp16" or "bf16", of what goes in."""

    name: str
    kind: str
    flops: int
    precision: str


@dataclass(frozen=True)
class Part:
    """A part of the model ("backbone.res3", "encoder.layers.0"): FLOPs of one stream by precision."""

    name: str
    flops: dict[str, int]


def products(traced: fx.GraphModule, model: nn.Module) -> tuple[Product, ...]:
    """In the order in which they run. model: the one that was traced, for the names of its parameters."""
    owners = {_memory(parameter): name.rpartition(".")[0] for name, parameter in model.named_parameters()}
    found, current = [], "step"
    for node in traced.graph.nodes:
        if node.op != "call_function":
            continue
        values = [source.meta.get("val") for source in node.all_input_nodes]
        held = [_held(traced, source) for source in node.all_input_nodes if source.op == "get_attr"]
        current = next((owners[_memory(tensor)] for tensor in held if _memory(tensor) in owners), current)
        flops = _flops(node, values)
        if flops:
            kind = str(node.target).removesuffix(".default")
            found.append(Product(current, kind, flops, _NAMES.get(values[-1].dtype, str(values[-1].dtype))))
    return tuple(found)


def fused_attentions(traced: fx.GraphModule) -> int:
    """How many attentions, deformable ones among them, are one operator each."""
    names = [str(node.target) for node in traced.graph.nodes]
    return sum(name.startswith((_ATTENTION, _FUSED)) for name in names)


def judge(found: tuple[Product, ...], asked: str, streams: int, fused: int, weight_bytes: int) -> Audit:
    """The record of an audit, for one stream; its `wider` names the largest products that are not in `asked`."""
    wider = sorted((each for each in found if each.precision != asked), key=lambda each: -each.flops)
    total = sum(each.flops for each in found)
    flops = {name: sum(e.flops for e in found if e.precision == name) // streams for name in _NAMES.values()}
    counts = dict(Counter(each.precision for each in found))
    return Audit(
        asked=asked,
        share=1 - sum(each.flops for each in wider) / total if total else 0.0,
        flops=flops,
        layers=counts,
        nodes=counts,
        wider=tuple((each.name, each.precision) for each in wider[:10]),
        fused_attention=fused,
        activation_bytes=None,
        weight_bytes=weight_bytes,
        source="traced operators",
    )


def parts(found: tuple[Product, ...], streams: int) -> tuple[Part, ...]:
    """By part of the model, in the order in which the step first reaches them."""
    sums: dict[str, dict[str, int]] = {}
    for each in found:
        flops = sums.setdefault(_part_of(each.name), {})
        flops[each.precision] = flops.get(each.precision, 0) + each.flops
    return tuple(Part(name, {key: value // streams for key, value in flops.items()}) for name, flops in sums.items())


def _part_of(layer: str) -> str:
    """ "encoder.layers.0.self_attn.value_proj" -> "encoder.layers.0", "backbone.res3.1.conv2" -> "backbone.res3"."""
    found = re.match(r"(?:model\.)?([^.]+(?:\.layers\.\d+|\.[^.]+)?)", layer)
    return found[1] if found else layer


def _flops(node: fx.Node, values: list[Tensor]) -> int:
    """Of a convolution or product; 0 of anything else."""
    target = str(node.target)
    if target.startswith(_ATTENTION):
        query, key, value = values[:3]
        return 2 * prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    result = node.meta.get("val")
    if not isinstance(result, Tensor):
        return 0
    if target == "aten.convolution.default":
        return 2 * result.numel() * prod(values[1].shape[1:])
    if target in ("aten.mm.default", "aten.bmm.default", "aten.addmm.default"):
        return 2 * result.numel() * values[-1].shape[-2]
    return 0


def _held(traced: fx.GraphModule, node: fx.Node) -> Tensor:
    held = getattr(traced, str(node.target))
    assert isinstance(held, Tensor)
    return held


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
