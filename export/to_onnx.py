"""Turn a checkpoint into one ONNX file that serves the first frame and every later one and carries its contract."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from l2g.errors import L2GError


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="to_onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt", required=True, help="a checkpoint: .safetensors, or a public Mask DINO .pth")
    parser.add_argument("--output", required=True, help="the ONNX file to write")
    parser.add_argument("--height", type=int, help="canvas height, a multiple of 32 (default: the model's)")
    parser.add_argument("--width", type=int, help="canvas width, a multiple of 32 (default: the model's)")
    parser.add_argument("--max-streams", type=int, default=8, help="most streams in one batch (default 8)")
    parser.add_argument("--outputs", choices=("raw", "detections"), default="raw", help="what comes out (default raw)")
    parser.add_argument("--top-k", type=int, default=50, help="instances chosen for detections (default 50)")
    parser.add_argument("--lowering", choices=("gather", "gridsample", "plugin"), default="gather")
    parser.add_argument("--target", choices=("onnxruntime", "tensorrt"), default="onnxruntime")
    parser.add_argument("--opset", type=int, default=17, help="17 to 20 (default 17)")
    parser.add_argument("--plugin-version", choices=("1", "2"), default="1", help="1: TensorRT 10, 2: TensorRT 11")
    parser.add_argument("--simplify", action="store_true", help="run onnxslim over the graph")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        run(options)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    from l2g.checkpoint import load_checkpoint
    from l2g.export.exporter import ExportOptions, export

    export(
        load_checkpoint(options.ckpt),
        options.output,
        ExportOptions(
            height=options.height,
            width=options.width,
            max_streams=options.max_streams,
            top_k=options.top_k if options.outputs == "detections" else None,
            lowering=options.lowering,
            target=options.target,
            opset=options.opset,
            plugin_version=options.plugin_version,
            simplify=options.simplify,
        ),
        Path(options.ckpt),
    )
    print(options.output)


if __name__ == "__main__":
    sys.exit(main())
