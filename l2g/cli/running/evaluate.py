"""AP of a model on a data set: `python runtime/evaluate.py --model l2g_tiny --dataset synthetic:val`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from l2g.data.registry import load_dataset
from l2g.errors import L2GError
from l2g.evaluation.run import ScoringOptions, evaluate_backend
from l2g.files import write_json
from l2g.runtime.backends.open import open_backend


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a checkpoint, an .onnx, or the name of a shipped model")
    parser.add_argument(
        "--dataset", required=True, help="directory in YouTube-VIS layout, FORMAT:DIR, or synthetic:{val,occluded,long}"
    )
    parser.add_argument("--split", default="valid", help="split of a directory (default: valid)")
    parser.add_argument("--seed", type=int, default=0, help="seed of a synthetic split (default: 0)")
    parser.add_argument("--videos", type=int, help="only the first N videos")
    parser.add_argument("--streams", type=int, default=4, help="videos that share a step (default: 4)")
    parser.add_argument("--top-k", type=int, default=ScoringOptions.top_k, help="results per video (default: 100)")
    parser.add_argument(
        "--no-handover",
        action="store_true",
        help="slots as they are: identities stay, shadows are shown",
    )
    parser.add_argument("--results", help="write the results in YouTube-VIS format")
    parser.add_argument("--report", help="write the scores as JSON, in percent")
    arguments = parser.parse_args(argv)
    try:
        dataset = load_dataset(arguments.dataset, arguments.split, seed=arguments.seed, skip_broken=False)
        if arguments.videos is not None:
            if arguments.videos < 1:
                raise L2GError(f"--videos {arguments.videos} found, at least 1 expected")
            dataset = replace(dataset, videos=dataset.videos[: arguments.videos])
        backend = open_backend(arguments.model, top_k=None)
        try:
            options = ScoringOptions(top_k=arguments.top_k, handover=not arguments.no_handover)
            evaluation = evaluate_backend(backend, dataset, streams=arguments.streams, options=options)
        finally:
            backend.close()
        if arguments.results:
            write_json(arguments.results, evaluation.results)
        if arguments.report:
            write_json(
                arguments.report, {"model": arguments.model, "dataset": arguments.dataset, **evaluation.to_json()}
            )
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(evaluation.report.table())
    print(f"{'switches':<14}{evaluation.identities.switches_per_100_frames:.2f} per object and 100 frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
