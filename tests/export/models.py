"""Inputs for the small model's graphs, and running them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from l2g.export.exporter import ExportOptions, contract_of
from l2g.export.graph.tracing import trace
from l2g.modeling.local2global import Local2Global
from l2g.modeling.stateless_step import StatelessStep
from tests.exported import exported_model
from tests.made_once import made_once


def traced(top_k: int | None = None) -> ir.Model:
    """A fresh copy of the small model's graph, traced once, deformable attention not yet lowered."""
    model = exported_model()
    contract = contract_of(model, ExportOptions(top_k=top_k))
    return ir.load(made_once(f"small-{top_k}.traced.onnx", lambda path: ir.save(trace(model, contract, 17), path)))


def inputs(model: Local2Global, streams: int, seed: int = 0, valid: list[int] | None = None) -> tuple[np.ndarray, ...]:
    """Random frames and priors in the contract's order; unless told, every other stream has no past."""
    config, rng = model.config, np.random.default_rng(seed)
    valid = [index % 2 for index in range(streams)] if valid is None else valid
    return (
        rng.integers(0, 256, (streams, *config.input_size, 3), dtype=np.uint8),
        rng.standard_normal((streams, config.num_queries, config.hidden_dim), dtype=np.float32),
        rng.uniform(0.1, 0.9, (streams, config.num_queries, 4)).astype(np.float32),
        np.array(valid, np.float32)[:, None],
    )


def session(graph) -> onnxruntime.InferenceSession:
    """`graph`: a path, or a serialised model."""
    source = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return session.run(None, dict(zip([spec.name for spec in session.get_inputs()], arrays, strict=True)))


def eager(model: Local2Global, arrays: tuple[np.ndarray, ...], top_k: int | None = None) -> list[np.ndarray]:
    with torch.no_grad():
        return [tensor.numpy() for tensor in StatelessStep(model, top_k)(*map(torch.from_numpy, arrays))]


def close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Queries, boxes and logits to 1e-4, masks to 1e-3."""
    for array, wanted, tolerance in zip(found, expected, (1e-4, 1e-4, 1e-4, 1e-3), strict=True):
        assert array.dtype == wanted.dtype
        np.testing.assert_allclose(array, wanted, rtol=0, atol=tolerance)
