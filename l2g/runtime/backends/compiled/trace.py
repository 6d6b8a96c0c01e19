"""A step as a flat list of operators: traced once for a number of streams, with everything folded that is constant.

What no input reaches (embeddings of positions, reference points, anchors, sizes) is computed once and kept: a CUDA
graph then needs nothing from the host, and less is left to run. What the model writes in place becomes plain results,
as every later pass expects.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten
# What stands between a product and who reads it, and moves nothing.
_VIEWS = (aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.squeeze.dim, aten.alias.default)


def trace(step: nn.Module, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """`step` for inputs of exactly these shapes, types and device: a module of the same inputs and results.

    Each node's `meta["val"]` tells of what it gives. Where masks are read of chosen slots alone, those alone are
    computed.
    """
    with torch.no_grad():
        # What modules remember of their first run (masks of windows, kernels) is to be real, and not of the tracer.
        step(*inputs)
        traced = make_fx(functionalize(lambda *given: step(*given)))(*inputs)
        choose_masks(traced)
        fold(traced)
        flatten_products(traced)
    traced.graph.lint()
    traced.recompile()
    return traced


def fold(traced: fx.GraphModule) -> int:
    """Compute, in place, what depends on no input; how many operators went."""
    known: dict[fx.Node, Any] = {}
    before = len(traced.graph.nodes)
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            known[node] = _attribute(traced, str(node.target))
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes) and _pure(node):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    number = 0
    for node in list(traced.graph.nodes):
        if node in known:
            continue
        for source in node.all_input_nodes:
            if source in known and source.op != "get_attr":
                name = f"_folded{number}"
                number += 1
                traced.register_buffer(name, known[source])
                with traced.graph.inserting_before(node):
                    constant = traced.graph.get_attr(name)
                constant.meta["val"] = known[source]
                source.replace_all_uses_with(constant, lambda user: user not in known)
                known[constant] = known[source]
    _drop_unused(traced)
    return before - len(traced.graph.nodes)


def choose_masks(traced: fx.GraphModule) -> int:
    """gather(E @ F, slots) becomes gather(E, slots) @ F, in place, where nothing else reads E @ F: how many did.

    With a state whose boxes are those of all masks, these have to be there anyway.
    """
    count = 0
    for node in list(traced.graph.nodes):
        if node.target is not aten.gather.default or node.args[1] != 1:
            continue
        whole, index = node.all_input_nodes
        product, slots = _sole_source(whole), _rows_of(index)
        if product is None or slots is None or product.target is not aten.bmm.default:
            continue
        embeddings, features = product.all_input_nodes
        rows, masks = slots.meta["val"].shape[1], node.meta["val"].shape
        width = embeddings.meta["val"].shape[2]
        with traced.graph.inserting_before(node):
            call = traced.graph.call_function
            repeated = call(aten.expand.default, (call(aten.unsqueeze.default, (slots, 2)), [-1, -1, width]))
            chosen = call(aten.gather.default, (embeddings, 1, repeated))
            made = call(aten.bmm.default, (chosen, features))
            shaped = call(aten.view.default, (made, list(masks)))
        val = node.meta["val"]
        chosen.meta["val"] = embeddings.meta["val"].new_empty(embeddings.meta["val"].shape[0], rows, width)
        made.meta["val"] = val.new_empty(val.shape[0], rows, val.shape[2] * val.shape[3])
        shaped.meta["val"] = val
        node.replace_all_uses_with(shaped)
        traced.graph.eliminate_dead_code()
        count += 1
    return count


def flatten_products(traced: fx.GraphModule) -> int:
    """A batch of products with the same weights becomes one product, in place; how many did. After `fold`.

    PyTorch spells a linear layer so where its input is transposed, as in `nn.MultiheadAttention`: with N queries these
    are N products of B rows, each of which reads all weights.
    """
    count = 0
    for node in list(traced.graph.nodes):
        if node.target is not aten.bmm.default or len(node.all_input_nodes) < 2:
            continue
        rows, weights = node.all_input_nodes
        if weights.op != "get_attr":
            continue
        held = _attribute(traced, str(weights.target))
        if held.stride(0) != 0:
            continue
        name = f"{weights.target}_once"
        traced.register_buffer(name, held[0])
        val, width = node.meta["val"], held.shape[1]
        with traced.graph.inserting_before(node):
            call = traced.graph.call_function
            once = traced.graph.get_attr(name)
            flat = call(aten.reshape.default, (rows, [-1, width]))
            made = call(aten.mm.default, (flat, once))
            shaped = call(aten.view.default, (made, list(val.shape)))
        once.meta["val"] = held[0]
        flat.meta["val"] = rows.meta["val"].reshape(-1, width)
        made.meta["val"], shaped.meta["val"] = val.flatten(0, 1), val
        node.replace_all_uses_with(shaped)
        count += 1
    _drop_unused(traced)
    return count


def _sole_source(node: fx.Node) -> fx.Node | None:
    """What a node shows another shape of, where nobody else reads it."""
    while len(node.users) == 1:
        if node.target not in _VIEWS:
            return node
        node = node.all_input_nodes[0]
    return None


def _rows_of(index: fx.Node) -> fx.Node | None:
    """The slots [B, M] of an index that is these, repeated over rows and columns of a mask."""
    while index.target in (aten.expand.default, aten.unsqueeze.default, aten.slice.Tensor):
        index = index.all_input_nodes[0]
    return index if index.meta["val"].ndim == 2 else None


def _drop_unused(traced: fx.GraphModule) -> None:
    traced.graph.eliminate_dead_code()
    used = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*traced.named_parameters(), *traced.named_buffers()) if name not in used]:
        delattr(traced, name)


def _pure(node: fx.Node) -> bool:
    target: Any = node.target
    if target is operator.getitem:
        return True
    return isinstance(target, torch._ops.OpOverload) and not target._schema.is_mutable


def _attribute(traced: fx.GraphModule, name: str) -> Any:
    found: Any = traced
    for part in name.split("."):
        found = getattr(found, part)
    return found
