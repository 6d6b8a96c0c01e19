"""The whole job once: the shipped checkpoint on the shipped clip, and its AP against the clip's annotation.

python examples/demo.py --output outputs/demo
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from l2g.cli.running import run as run_video
from l2g.errors import L2GError
from l2g.metrics.vis_ap import evaluate_vis

DEMO = Path(__file__).parent / "demo"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l2g_tiny", help="a checkpoint, an .onnx, or the name of a shipped model")
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"))
    options = parser.parse_args(argv)
    clip = str(DEMO / "clip.mp4")
    code = run_video.main(["--model", options.model, "--input", clip, "--output", str(options.output)])
    if code:
        return code
    try:
        report = evaluate_vis(DEMO / "annotation.json", options.output / "results.json", allow_empty=True)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        "against the clip's annotation: "
        + ", ".join(f"{name} {100 * report.stats[name]:.1f}" for name in ("AP", "AP50"))
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
