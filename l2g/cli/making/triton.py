"""Make a Triton model repository: models that take frames or JPEGs and return tracks, for many streams at once.

Start it with: tritonserver --model-repository REPOSITORY; l2g.serving.client speaks to it. Exit code: 0.
"""

from __future__ import annotations

import argparse
from typing import Any

from l2g.cli.arguments import cuts, duration
from l2g.cli.entry import main_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from l2g.serving.options import BACKENDS, STRATEGIES, ServingOptions

    default = ServingOptions  # its fields' defaults

    parser.add_argument("models", nargs="+", metavar="MODEL", help="an .onnx or an .engine; its name is the model's")
    parser.add_argument("--output", required=True, metavar="REPOSITORY", help="folder of models, made or added to")
    parser.add_argument("--version", type=int, default=default.version, help="number of this version of the models")
    parser.add_argument(
        "--versions", default=default.versions, help="which the server loads: latest, all, or how many of the latest"
    )
    parser.add_argument("--server", metavar="RELEASE", help="of the server, such as 25.08 (default: the newest)")
    running = parser.add_argument_group("what runs the graph")
    running.add_argument(
        "--backend",
        choices=BACKENDS,
        default=default.backend,
        help="python: l2g inside the server; else a backend of the server's own, with the state held by the server",
    )
    running.add_argument("--library", choices=("onnxruntime", "openvino"), help="in python (default: onnxruntime)")
    running.add_argument(
        "--device", help="in python: cpu, cuda; OpenVINO: CPU, GPU, NPU, AUTO (default: CPU; a GPU with --gpu)"
    )
    running.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="of OpenVINO (default: the graph's)")
    running.add_argument("--gpu", action="store_true", help="instances on GPUs of CUDA, not on CPUs")
    running.add_argument("--instances", type=int, default=default.instances, help="copies of the model, or a GPU")
    running.add_argument(
        "--warm-up",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="run two frames before the first request (default: where the backend can)",
    )
    streams = parser.add_argument_group("streams")
    streams.add_argument("--streams", type=int, default=default.streams, help="that are served at the same time")
    streams.add_argument(
        "--strategy", choices=STRATEGIES, default=default.strategy, help="auto: direct where each stream has a slot"
    )
    streams.add_argument("--batch", type=int, help="most frames that go together (default: by streams and engine)")
    streams.add_argument(
        "--preferred-batch", type=int, nargs="+", default=[], metavar="N", help="sizes that go at once, of oldest"
    )
    streams.add_argument(
        "--queue-delay", type=float, default=default.delay, metavar="SECONDS", help="that a batch waits to fill"
    )
    streams.add_argument(
        "--idle", type=duration, default="30s", metavar="TIME", help="without a frame after which a stream ends"
    )
    tracks = parser.add_argument_group("tracks, as of l2g run")
    tracks.add_argument("--score-threshold", type=float, default=default.score_threshold, help="lowest that is shown")
    tracks.add_argument("--top-k", type=int, default=default.top_k, help="slots of a frame that are looked at")
    tracks.add_argument("--max-age", type=int, default=default.max_age, help="frames that a hidden track keeps its id")
    tracks.add_argument("--cuts", type=cuts, default="auto", help="auto, off, or their times in seconds, as 1.5,20")


def run(options: argparse.Namespace) -> int:
    from l2g.serving.options import ServingOptions
    from l2g.serving.repository import write_repository

    given: dict[str, Any] = dict(vars(options))
    models, output = given.pop("models"), given.pop("output")
    chosen = ServingOptions(preferred=tuple(given.pop("preferred_batch")), delay=given.pop("queue_delay"), **given)
    for served in write_repository(models, output, chosen):
        print(f"{served.folders[0]}: frames in, tracks out, batches of up to {served.max_batch}")
        for folder in served.folders[1:]:
            print(f"{folder}: its graph, whose state the server holds")
        print(f"  {served.why}")
    print(f"start it with: tritonserver --model-repository {output}")
    return 0


main = main_of("triton")
