"""A small Swin Local2Global as graphs, built once: five levels, every stage padded, no boxes from masks."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from unittest import mock

import onnx_ir as ir

from l2g.artifacts.onnx_file import with_contract, with_sum
from l2g.config import SwinConfig
from l2g.export import exporter
from l2g.export.exporter import ExportOptions
from l2g.export.graph.tracing import trace
from l2g.modeling.local2global import Local2Global
from tests.made_once import made_once
from tests.modeling.small import small_model

# 96 x 160 pixels are maps of 24 x 40, 12 x 20, 6 x 10 and 3 x 5 tokens.
# Heads are 32 wide, as those of every public Swin.
SWIN = SwinConfig(embed_dim=64, depths=(1, 2, 2, 2), heads=(2, 4, 8, 16), window=7)
CANVAS = (96, 160)


@functools.cache
def swin_model() -> Local2Global:
    return small_model(
        backbone=vars(SWIN), encoder={"levels": 5, "finest": 2}, box_init="no", state_box="head", input_size=CANVAS
    )


def _traced() -> ir.Model:
    contract = exporter.contract_of(swin_model(), ExportOptions())
    return ir.load(made_once("swin.traced.onnx", lambda path: ir.save(trace(swin_model(), contract, 17), path)))


@functools.cache
def swin_graph(precision: str = "fp32", target: str = "onnxruntime", lowering: str = "gather") -> Path:
    """Raw outputs. Not verified by the export: its tests do that."""
    options = ExportOptions(precision=precision, target=target, lowering=lowering, max_streams=2)
    contract = exporter.contract_of(swin_model(), options)

    def make(path: Path) -> None:
        with mock.patch.object(exporter, "trace", return_value=_traced()):
            graph = exporter.build_graph(swin_model(), contract, options)
        build = with_sum(exporter.build_facts(options, None), graph)
        path.write_bytes(with_contract(graph, dataclasses.replace(contract, build=build)))

    return made_once(f"swin-{precision}-{target}-{lowering}.onnx", make)
