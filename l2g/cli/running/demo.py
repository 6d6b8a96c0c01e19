"""The whole job once: the shipped checkpoints, each on a clip of its kind, and their scores.

    l2g demo --output outputs/demo

Instances on the shipped clip, scored by AP; things and stuff, into `panoptic/` of the output, on a clip that is drawn,
scored by VPQ.
Exit code: as of l2g run.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import closing
from pathlib import Path

from l2g.cli.arguments import MODEL, add_quiet
from l2g.cli.entry import main_of

# Of the drawn clip.
FRAMES, SIZE, RATE = 60, (192, 320), 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="MODEL", help=f"{MODEL} (default: l2g_tiny, then l2g_tiny_panoptic for things and stuff)"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="the folder for the results")
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    if options.model is None:
        return _instances("l2g_tiny", options) or _panoptic("l2g_tiny_panoptic", options)
    return (_panoptic if _knows_stuff(options.model) else _instances)(options.model, options)


def _knows_stuff(model: str) -> bool:
    from l2g.runtime.backends.open import open_backend

    with closing(open_backend(model)) as backend:
        return bool(backend.contract.stuff_classes)


def _run_video(model: str, source: Path, output: Path, options: argparse.Namespace, *more: str) -> int:
    from l2g.cli.running.run import main as run_video

    words = ["--model", model, "--input", str(source), "--output", str(output), *more]
    return run_video([*words, *["--quiet"] * options.quiet])


def _instances(model: str, options: argparse.Namespace) -> int:
    from l2g.demo import ANNOTATION, CLIP
    from l2g.metrics.vis_ap import evaluate_vis

    if code := _run_video(model, CLIP, options.output, options):
        return code
    stats = evaluate_vis(ANNOTATION, options.output / "results.json", allow_empty=True).stats
    print("against the clip's annotation: " + ", ".join(f"{name} {100 * stats[name]:.1f}" for name in ("AP", "AP50")))
    return 0


def _panoptic(model: str, options: argparse.Namespace) -> int:
    from l2g.data.synthetic.panoptic import write_panoptic
    from l2g.metrics.panoptic import submission
    from l2g.metrics.vpq import evaluate_vpq

    output = options.output / "panoptic"
    with tempfile.TemporaryDirectory() as folder:
        drawn = write_panoptic(Path(folder) / "set", "demo", videos=1, frames=FRAMES, size=SIZE)
        (pictures,) = (drawn / "images").iterdir()
        if code := _run_video(model, pictures, output, options, "--fps", str(RATE)):
            return code
        truth = drawn / "panoptic_gt_VIPSeg_demo.json", drawn / "panomasksRGB"
        means = evaluate_vpq(*truth, *submission(output)).mean((1, 2, 4, 6))
    names = {"VPQ": "VPQ", "VPQ_thing": "of things", "VPQ_stuff": "of stuff"}
    scores = ", ".join(f"{name} {means[key] or 0:.1f}" for key, name in names.items())
    print(f"things and stuff against what was drawn: {scores}")
    return 0


main = main_of("demo")
