"""Which parts of a Swin's windows may compute on 8 bits: what each does to the outputs, and what smoothing would save.

    python benchmarks/swin_int8.py --model runs/swin/model.safetensors --calibrate-on synthetic:train

Every part is quantised alone, in all blocks at once, and the outputs compared with those of float32 from the same
recorded states (`l2g.calibration.sensitivity`). "smoothed" is the same after the scales of SmoothQuant (Xiao et al.
2023, eq. 4, alpha 0.5) went from what the norms give into the weights behind them; only `qkv` and `fc1` follow a norm.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from l2g.artifacts.onnx_file import with_contract, with_sum
from l2g.calibration.observation import Observed, observe
from l2g.calibration.placement import LAYOUTS, Layout, find_places, quantise
from l2g.calibration.ranges import AUTO, PERCENTILE
from l2g.calibration.recording import Recording, RecordingOptions, record
from l2g.calibration.sensitivity import output_error, references
from l2g.calibration.units import take_inventory
from l2g.checkpoint import load_checkpoint
from l2g.data.registry import load_dataset
from l2g.errors import L2GError
from l2g.export.exporter import ExportOptions, build_facts, build_graph, contract_of
from l2g.export.graph.flops import contractions, shapes_for_one_stream
from l2g.modeling.backbones.swin import Swin
from l2g.modeling.local2global import Local2Global
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend

PARTS = {
    "queries, keys, values": "/attn/qkv/MatMul",
    "projection": "/attn/proj/MatMul",
    "first layer of the MLP": "/mlp/fc1/MatMul",
    "second layer of the MLP": "/mlp/fc2/MatMul",
    "queries by keys": "/attn/MatMul",
    "weights by values": "/attn/MatMul_1",
    "patch merging": "/downsample/reduction/MatMul",
}
ALPHA = 0.5


def errors(model: Local2Global, recording: Recording, layout: Layout, folder: Path) -> dict[str, tuple[float, float]]:
    """Percent of the arithmetic and the error of the outputs, part by part; and of all parts but the products."""
    options = ExportOptions()
    contract = contract_of(model, options)
    graph = build_graph(model, contract, options)
    proto = onnx.load_from_string(graph)
    inventory = take_inventory(proto)
    counted = {
        contraction.name: contraction.flops for contraction in contractions(proto, shapes_for_one_stream(proto))[0]
    }
    every = [name for name in inventory.nodes(inventory.names) if name.startswith("/backbone/")]
    nodes = {name: [node for node in every if node.endswith(ending)] for name, ending in PARTS.items()}
    nodes["all of these but the products"] = [n for name, part in nodes.items() if " by " not in name for n in part]
    nodes["all of these"] = every
    tensors = find_places(proto, {node for part in nodes.values() for node in part}, layout).tensors
    cache = folder / f"{layout.name}-{id(model)}.npz"
    observed = Observed(observe(proto, tensors, recording, cache, progress=False), layout.symmetric, PERCENTILE)
    wanted = references(graph, contract, recording)
    found = {}
    for name, part in nodes.items():
        trial = quantise(proto, part, lambda tensor: observed.interval(tensor, AUTO), layout).SerializeToString()
        share = 100 * sum(counted[node] for node in part) / inventory.flops
        found[name] = share, output_error(trial, contract, wanted)
    return found


@torch.no_grad()
def smoothed(model: Local2Global, recording: Recording) -> Local2Global:
    """The same function with the channels of what is quantised more alike."""
    model = copy.deepcopy(model)
    assert isinstance(model.backbone, Swin)
    largest: dict[torch.nn.Module, torch.Tensor] = {}

    def seen(module, _, result):
        here = result.abs().flatten(0, -2).amax(0)
        largest[module] = torch.maximum(largest.get(module, here), here)

    pairs = [
        pair
        for stage in model.backbone.layers
        for block in stage.blocks
        for pair in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1))
    ]
    hooks = [norm.register_forward_hook(seen) for norm, _ in pairs]
    for sample in recording:
        model.encode(torch.from_numpy(sample.inputs["frames"]))
    for hook in hooks:
        hook.remove()
    for norm, linear in pairs:
        scale = largest[norm] ** ALPHA / linear.weight.abs().amax(0) ** (1 - ALPHA)
        norm.weight /= scale
        norm.bias /= scale
        linear.weight *= scale
    return model


def report(args: argparse.Namespace, folder: Path) -> None:
    model = load_checkpoint(args.model).eval()
    if not isinstance(model.backbone, Swin):
        raise L2GError(f"{args.model}: a ResNet found, a checkpoint with a Swin expected")
    options = ExportOptions()
    contract = contract_of(model, options)
    graph = build_graph(model, contract, options)
    base = folder / "fp32.onnx"
    base.write_bytes(with_contract(graph, replace(contract, build=with_sum(build_facts(options, None), graph))))
    backend = OnnxRuntimeBackend(base, threads=args.threads)
    chosen = RecordingOptions(videos=args.videos, frames=args.frames, span=args.span)
    recording = record(backend, load_dataset(args.calibrate_on, "train"), folder / "rollouts", chosen, progress=False)
    backend.close()
    columns = {
        f"error, {name}": errors(model, recording, LAYOUTS[name], folder) for name in ("onnxruntime", "tensorrt")
    }
    other = smoothed(model, recording)
    columns["smoothed, tensorrt"] = errors(other, recording, LAYOUTS["tensorrt"], folder)
    print(f"| 8 bits in | % of the arithmetic | {' | '.join(columns)} |")
    print("|" + "---|" * (len(columns) + 2))
    for part, (share, _) in next(iter(columns.values())).items():
        cells = " | ".join(f"{found[part][1]:.4f}" for found in columns.values())
        print(f"| {part} | {share:.1f} | {cells} |", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint with a Swin backbone")
    parser.add_argument("--calibrate-on", default="synthetic:train", help="default: %(default)s")
    parser.add_argument("--videos", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=4, help="kept of each video (default: %(default)s)")
    parser.add_argument("--span", type=int, default=16, help="run of each video (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            report(args, Path(folder))
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
