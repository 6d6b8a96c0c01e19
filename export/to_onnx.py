"""Turn a checkpoint into one ONNX file that serves the first frame and every later one and carries its contract.

The file gets its name only after ONNX Runtime has given PyTorch's numbers with it. Exit code: 0 written, 2 bad input or
a graph that is not the model (nothing is written).
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from l2g.errors import ExportError, L2GError

if TYPE_CHECKING:
    from l2g.export.exporter import Exported


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="to_onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ckpt", required=True, help="a .safetensors, a public Mask DINO .pth, or a shipped model's name"
    )
    parser.add_argument("--output", required=True, help="the ONNX file to write")
    parser.add_argument("--height", type=int, help="canvas height, a multiple of 32 (default: the model's)")
    parser.add_argument("--width", type=int, help="canvas width, a multiple of 32 (default: the model's)")
    parser.add_argument("--max-streams", type=int, default=8, help="most streams in one batch (default 8)")
    parser.add_argument(
        "--outputs",
        choices=("raw", "detections"),
        default="raw",
        help="raw: all logits and masks, for parity and evaluation; detections: the best, for a runtime (default raw)",
    )
    parser.add_argument("--top-k", type=int, default=50, help="instances chosen for detections (default 50)")
    parser.add_argument(
        "--lowering",
        choices=("gather", "gridsample", "plugin"),
        default="gather",
        help="how deformable attention is spelled (default gather; docs/export.md says why)",
    )
    parser.add_argument(
        "--target",
        choices=("onnxruntime", "tensorrt"),
        default="onnxruntime",
        help="which library the gather is laid out for (default onnxruntime)",
    )
    parser.add_argument("--opset", type=int, default=17, help="17 to 20 (default 17)")
    parser.add_argument("--plugin-version", choices=("1", "2"), default="1", help="1: TensorRT 10, 2: TensorRT 11")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "auto"),
        default="fp32",
        help="fp16: mixed, with float32 islands; auto: fp16, and what it hurts stays float32, found by measuring "
        "(default fp32)",
    )
    parser.add_argument(
        "--fp32-blocks", nargs="+", default=[], metavar="BLOCK", help="with fp16: keep these float32, encoder.layers.0"
    )
    parser.add_argument("--simplify", action="store_true", help="run onnxslim over the graph")
    unknown = parser.add_argument_group("what the shapes in a public .pth do not tell")
    unknown.add_argument("--num-queries", type=int, help="slots (default: the checkpoint's own, or 300)")
    unknown.add_argument("--num-heads", type=int, help="attention heads (default: the checkpoint's own, or 8)")
    unknown.add_argument("--box-init", choices=("mask2box", "bitmask"), help="(default: its own, or mask2box)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        exported = run(options)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    verification = exported.verification
    print(f"{exported.path}: {exported.path.stat().st_size / 1e6:.1f} MB, verified by {verification.library}")
    print("  " + ", ".join(f"{name} {value:.2g}" for name, value in verification.differences.items()))
    return 0


def run(options: argparse.Namespace) -> Exported:
    try:
        from l2g.checkpoint import WEIGHTS, load_checkpoint, shipped_checkpoints
        from l2g.export.exporter import ExportOptions, export
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "l2g":
            raise
        raise ExportError(f"'{error.name}' is not installed; pip install 'l2g[export]'") from None

    choices = ExportOptions(
        height=options.height,
        width=options.width,
        max_streams=options.max_streams,
        top_k=options.top_k if options.outputs == "detections" else None,
        lowering=options.lowering,
        target=options.target,
        opset=options.opset,
        plugin_version=options.plugin_version,
        simplify=options.simplify,
        precision=options.precision,
        fp32_blocks=tuple(options.fp32_blocks),
    )
    model = load_checkpoint(
        options.ckpt, num_queries=options.num_queries, num_heads=options.num_heads, box_init=options.box_init
    )
    shipped = options.ckpt in shipped_checkpoints()
    return export(model, options.output, choices, WEIGHTS / f"{options.ckpt}.safetensors" if shipped else options.ckpt)


if __name__ == "__main__":
    sys.exit(main())
