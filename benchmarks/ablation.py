"""The paper's Tables 3, 5 and 6 in small: what aligner, trajectory, width, supervision and positions bring.

    python benchmarks/ablation.py segmenter --output runs/ablation                        # 27,500 iterations on images
    python benchmarks/ablation.py plain --output runs/ablation                            # and 3,000 without an aligner
    python benchmarks/ablation.py run --output runs/table3 --init runs/ablation/plain/model.safetensors
    python benchmarks/ablation.py table --output runs/ablation
    python benchmarks/ablation.py pack --output runs/ablation --archive benchmarks/ablation.json.gz
    python benchmarks/ablation.py picture --output runs/ablation --picture crossing.png
    python benchmarks/ablation.py sight --models l2g_tiny runs/ablation/trajectory-0/model.safetensors
    python benchmarks/ablation.py identities --models l2g_tiny runs/ablation/trajectory-0/model.safetensors
    python benchmarks/ablation.py priors --models l2g_tiny runs/ablation/trajectory-0/model.safetensors
    python benchmarks/ablation.py gradients --models l2g_tiny runs/ablation/trajectory-0/phase0.safetensors

Every variant starts from the same image segmenter (`--init`; benchmarks/segmenter.safetensors is what the first
command gives; where variants have no aligner, take the second's, which has none to lose), learns what it adds on
images (the aligner, learned boxes) with everything else frozen, and then everything on clips: the same clips, in the
same order, for the same number of iterations. It is scored on four splits, with the handover of identities and
without: AP, switches, what becomes of objects that return, how far a slot's query moves from frame to frame and what
the aligner attends to. `sight` scores trained models once more with an aligner that sees nothing of the present, or
another video's, `identities` with identities from the annotation, `priors` with slots that know where their objects
are or which local query is theirs, `gradients` says what comes to the aligner's parts. The table has 95 % intervals
over seeds and videos (bootstrap; the same seeds and videos are drawn for all variants). Interrupt it at any moment:
the same command goes on where it stopped. Several at once, with other seeds or variants and the same output, share the
work. `pack` puts the results into one file, beside those that are in it already, which `table` reads in place of a
folder.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_gradients import PARTS, gradients
from ablation_insight import insight
from ablation_open import CHANGES, MODELS, SIGHTS, Change, clips_of_crossing
from ablation_oracle import as_annotated
from ablation_priors import PRIORS, results_with
from ablation_report import draw_picture, row, rule, tables

from l2g import load_checkpoint
from l2g.cli.interruption import interruptible
from l2g.data.classes import match_classes
from l2g.data.dataset import VideoDataset
from l2g.data.registry import load_dataset
from l2g.data.youtube_vis import ground_truth
from l2g.errors import L2GError
from l2g.evaluation.lanes import Lane, frames_of, rounds, step
from l2g.evaluation.run import Rollout, ScoringOptions, VideoScorer
from l2g.files import write_bytes, write_json
from l2g.metrics.identities import IdentityReport, identity_switches, returns
from l2g.metrics.rle import compress
from l2g.metrics.vis_ap import ap_of_draws
from l2g.runtime.backends.eager import EagerBackend
from l2g.runtime.session import VideoSession
from l2g.training.config import PhaseConfig, TrainConfig, load_config
from l2g.training.trainer import Trainer

SEGMENTER = Path(__file__).with_name("segmenter.safetensors")
SPLITS = {"val": 48, "occluded": 48, "long": 12, "crossing": 16}
DRAWS = 200
FACTS = ("iterations", "clips", "videos")  # options that runs of one table share
COMMON: dict[str, Any] = {"lr": 4e-4, "schedule": "cosine", "hold": 0.3}
# The last phase: 40 frames of a clip, 8 at a time.
WINDOWS = PhaseConfig(
    kind="clip", iterations=220, batch_size=8, **COMMON, warmup=20, clip_length=40, window=8, stride=(1, 3)
)
ABSENCES = ((1, 5), (6, 15), (16, 40), (41, 10_000))  # frames


@dataclass(frozen=True)
class Variant:
    """What sets a variant apart: fields of the model, of its phase on clips, or a change of the code."""

    model: dict[str, Any] = field(default_factory=dict)
    clips: dict[str, Any] = field(default_factory=dict)
    change: Change = nullcontext


# The whole model is `+ trajectory`: the aligner's width is 256, four times the queries' as in the paper, every frame
# has a loss, the local queries no position. The baseline carries queries alone, its first boxes are learned, per slot.
STEPS: dict[str, dict[str, Any]] = {
    "baseline": {"aligner": None, "trajectory": False},
    "+ aligner": {"trajectory": False},
    "+ trajectory": {},
    "trajectory alone": {"aligner": None},
}
VARIANTS = {
    **{name: Variant(model) for name, model in STEPS.items()},
    "width 128": Variant({"aligner": {"ffn_dim": 128}}),
    "width 512": Variant({"aligner": {"ffn_dim": 512}}),
    "loss in 2 of 8 frames": Variant(clips={"supervised": 2}),
    "static positions": Variant({"aligner": {"local_position": "static"}}),
    "dynamic positions": Variant({"aligner": {"local_position": "dynamic"}}),
    **{f"{name} on crossing": Variant(model, change=clips_of_crossing) for name, model in STEPS.items()},
    **{name: Variant(MODELS.get(name, {}), change=change) for name, change in CHANGES.items()},
}
# Table -> pairs of variants: what the first has over the second.
_STEPS = (
    ("+ aligner", "baseline"),
    ("+ trajectory", "+ aligner"),
    ("trajectory alone", "baseline"),
    ("+ trajectory", "trajectory alone"),
)
TABLES = {
    "table3": _STEPS,
    "crossing": tuple((f"{after} on crossing", f"{before} on crossing") for after, before in _STEPS),
    "table5": (("width 128", "+ trajectory"), ("width 512", "+ trajectory")),
    "table6": (
        *((name, "+ trajectory") for name in ("loss in 2 of 8 frames", "static positions", "dynamic positions")),
        ("static positions", "dynamic positions"),
    ),
    "look": (
        ("dynamic positions", "trajectory alone"),
        ("told where to look", "trajectory alone"),
        ("told where to look", "dynamic positions"),
    ),
    "open": tuple((name, "dynamic positions" if VARIANTS[name].model else "+ trajectory") for name in CHANGES),
}


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    try:
        with interruptible():
            return options.act(options)
    except L2GError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--output", type=Path, required=True, help="folder of all runs (table: or an archive)")
    segmenter = commands.add_parser("segmenter", parents=[common], help="train the image segmenter that all start from")
    segmenter.add_argument("--iterations", type=int, nargs=2, help="of its two phases (default: the shipped run's)")
    segmenter.set_defaults(act=train_segmenter)
    plain = commands.add_parser("plain", parents=[common], help="take the segmenter's aligner away and learn on")
    plain.add_argument("--init", type=Path, default=SEGMENTER, help="(default: the shipped one)")
    plain.add_argument("--iterations", type=int, default=3000, help="on images (default: %(default)s)")
    plain.set_defaults(act=train_plain)
    run = commands.add_parser("run", parents=[common], help="train and score what is not there yet")
    run.add_argument("--init", type=Path, default=SEGMENTER, help="the image segmenter (default: the shipped one)")
    run.add_argument("--variants", nargs="+", default=["table3"], help=f"{', '.join(TABLES)}, or names of variants")
    run.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    run.add_argument("--iterations", type=int, nargs=3, default=[200, 150, 220],
                     help="on images, on clips of 3 frames, in windows of 8 frames (default: 200 150 220)")  # fmt: skip
    run.add_argument("--clips", type=int, default=8, help="that learn together (default: %(default)s)")
    run.add_argument("--videos", type=int, nargs=4, default=list(SPLITS.values()), help=f"of {', '.join(SPLITS)}")
    run.set_defaults(act=run_all)
    seen = commands.add_parser("sight", help="AP (by slots / with the handover) by what the aligner sees")
    seen.add_argument("--models", nargs="+", required=True, help="checkpoints, or names of shipped models")
    seen.add_argument("--videos", type=int, nargs=4, default=list(SPLITS.values()), help=f"of {', '.join(SPLITS)}")
    seen.set_defaults(act=sight)
    lost = commands.add_parser("identities", help="AP by slots / with the handover / as the annotation has identities")
    lost.add_argument("--models", nargs="+", required=True, help="checkpoints, or names of shipped models")
    lost.add_argument("--videos", type=int, nargs=4, default=list(SPLITS.values()), help=f"of {', '.join(SPLITS)}")
    lost.set_defaults(act=identities)
    right = commands.add_parser("priors", help="AP by slots where a slot's box or query is its object's present one")
    right.add_argument("--models", nargs="+", required=True, help="checkpoints, or names of shipped models")
    right.add_argument("--splits", nargs="+", choices=list(SPLITS), default=["crossing"], help="(default: crossing)")
    right.add_argument("--videos", type=int, default=SPLITS["crossing"], help="of each (default: %(default)s)")
    right.set_defaults(act=print_priors)
    learned = commands.add_parser("gradients", help="root mean square of the gradients of the aligner's parts")
    learned.add_argument("--models", nargs="+", required=True, help="checkpoints, or names of shipped models")
    learned.add_argument("--batches", type=int, default=20, help="of 8 clips (default: %(default)s)")
    learned.set_defaults(act=print_gradients)
    table = commands.add_parser("table", parents=[common], help="what is there, as Markdown")
    table.set_defaults(act=lambda options: print(tables(read(options.output), TABLES, ABSENCES)) or 0)
    archive = commands.add_parser("pack", parents=[common], help="put the results into one file")
    archive.add_argument("--archive", type=Path, required=True, help="JSON file, packed by gzip, to add them to")
    archive.set_defaults(act=pack)
    picture = commands.add_parser("picture", parents=[common], help="the variants side by side on one video")
    picture.add_argument("--picture", type=Path, required=True, help="PNG to write")
    picture.add_argument("--video", default="crossing:0", help="SPLIT:NUMBER (default: %(default)s)")
    picture.add_argument("--frames", type=int, nargs="+", default=[0, 20, 40, 60, 80, 100])
    picture.add_argument("--seed", type=int, default=0, help="of the runs (default: 0)")
    picture.set_defaults(act=lambda options: draw_picture(options, list(VARIANTS)[:3], folder_of))
    options = parser.parse_args(argv)
    for name in getattr(options, "variants", ()):
        if name not in VARIANTS and name not in TABLES:
            parser.error(f"variant '{name}' found, expected one of {', '.join([*TABLES, *VARIANTS])}")
    return options


def train_segmenter(options: argparse.Namespace) -> int:
    """The first two phases of the shipped run, on images."""
    config = load_config("synthetic_tiny")
    phases = config.phases[:2]
    if options.iterations:
        phases = tuple(replace(p, iterations=n) for p, n in zip(phases, options.iterations, strict=True))
    config = replace(config, phases=phases, overrides={})
    print(trained(config, options.output / "segmenter"))
    return 0


def train_plain(options: argparse.Namespace) -> int:
    """The image segmenter without an aligner, as the paper has it: the decoder starts from the local queries."""
    config = load_config("synthetic_tiny")
    phases = (replace(config.phases[1], iterations=options.iterations, lr=5e-4),)
    config = replace(config, init=str(options.init), phases=phases, overrides={"aligner": None})
    print(trained(config, options.output / "plain"))
    return 0


def trained(config: TrainConfig, folder: Path) -> Path:
    """The weights of a run that ended; KeyboardInterrupt where it was stopped."""
    weights = Trainer(config, folder).run()
    if weights is None:
        raise KeyboardInterrupt
    return weights


def run_all(options: argparse.Namespace) -> int:
    if not options.init.is_file():
        raise L2GError(f"{options.init}: no such file; `ablation.py segmenter` trains it, give it as --init")
    asked = [name for given in options.variants for pair in TABLES.get(given, ((given,),)) for name in pair]
    names = [name for name in VARIANTS if name in asked]
    losing = [name for name in names if VARIANTS[name].model.get("aligner", "kept") is None]
    if losing and load_checkpoint(options.init).config.aligner:
        print(f"note: {options.init} has an aligner that {', '.join(losing)} will lose; see `plain`", file=sys.stderr)
    for seed in options.seeds:
        for name in names:
            measure(name, seed, options)
    return 0


def run_config(name: str, seed: int, options: argparse.Namespace) -> TrainConfig:
    """The shipped run's settings with phases of its own; nothing but the variant's switches and the seed differs."""
    images, short, windows = options.iterations
    phases = (
        PhaseConfig(kind="align", iterations=images, batch_size=8, **{**COMMON, "lr": 5e-4}, warmup=50),
        PhaseConfig(kind="clip", iterations=short, batch_size=options.clips, **COMMON, warmup=50, clip_length=3,
                    stride=(1, 3)),
        replace(WINDOWS, iterations=windows, batch_size=options.clips, **VARIANTS[name].clips),
    )  # fmt: skip
    config = load_config("synthetic_tiny")
    return replace(
        config, init=str(options.init), seed=seed, phases=phases, overrides=VARIANTS[name].model, save_every=50
    )


def folder_of(output: Path, name: str, seed: int) -> Path:
    return output / f"{name.removeprefix('+ ').replace(' ', '_')}-{seed}"


def measure(name: str, seed: int, options: argparse.Namespace) -> None:
    """Train one variant and score it, unless its result is there."""
    folder = folder_of(options.output, name, seed)
    path = folder / "result.json"
    facts = {key: getattr(options, key) for key in FACTS}
    if path.exists():
        if {key: json.loads(path.read_text())[key] for key in facts} != facts:
            raise L2GError(f"{path}: measured with other options; use another --output, or remove {folder}")
        return
    print(f"{name}, seed {seed}", file=sys.stderr)
    with VARIANTS[name].change():
        model = load_checkpoint(trained(run_config(name, seed, options), folder)).eval()
        scores = {split: score(model, _first(split, n)) for split, n in zip(SPLITS, options.videos, strict=True)}
        found = {"variant": name, "seed": seed, **facts, "scores": scores, "insight": insight(model)}
    write_json(path, found)


def _first(split: str, videos: int) -> VideoDataset:
    dataset = load_dataset(f"synthetic:{split}")
    return replace(dataset, videos=dataset.videos[:videos])


def sight(options: argparse.Namespace) -> int:
    """Print the AP of trained models by what their aligner sees."""
    print(row("model", "the aligner sees", *SPLITS), rule(2 + len(SPLITS)), sep="\n")
    for name in options.models:
        model = load_checkpoint(name).eval()
        if model.aligner is None:
            raise L2GError(f"{name}: has no aligner; give a model that has one")
        for seen, change in SIGHTS.items():
            with change():
                found = [score(model, _first(s, n)) for s, n in zip(SPLITS, options.videos, strict=True)]
            cells = (f"{one['slots']['AP']:.1f} / {one['handover']['AP']:.1f}" for one in found)
            print(row(name, seen, *cells), flush=True)
    return 0


def identities(options: argparse.Namespace) -> int:
    """Print the AP of trained models by where identities come from."""
    print(row("model", *SPLITS), rule(1 + len(SPLITS)), sep="\n")
    for name in options.models:
        model = load_checkpoint(name).eval()
        found = [score(model, _first(s, n), annotated=True) for s, n in zip(SPLITS, options.videos, strict=True)]
        print(row(name, *(" / ".join(f"{part['AP']:.1f}" for part in one.values()) for one in found)), flush=True)
    return 0


def print_priors(options: argparse.Namespace) -> int:
    """Print the AP of trained models by what of their slots' priors is right."""
    print(row("model", "right are", *options.splits), rule(2 + len(options.splits)), sep="\n")
    for name in options.models:
        model = load_checkpoint(name).eval()
        for right, which in PRIORS.items():
            found = []
            for split in options.splits:
                dataset = _first(split, options.videos)
                categories = [category.id for category in dataset.categories]
                results = results_with(model, dataset.videos, categories, *which)
                counts = np.ones((1, len(dataset.videos)), np.int64)
                found.append(100 * float(ap_of_draws(ground_truth(dataset), results, counts)[0]))
            print(row(name, right, *(f"{value:.1f}" for value in found)), flush=True)
    return 0


def print_gradients(options: argparse.Namespace) -> int:
    """Print what comes to each part of the aligner and of the decoder, in the windows that the ablation learns from."""
    print(row("model", "module", *PARTS), rule(2 + len(PARTS)), sep="\n")
    config = load_config("synthetic_tiny")
    phase = replace(WINDOWS, iterations=options.batches)
    for name in options.models:
        for module, parts in gradients(load_checkpoint(name), config, phase).items():
            print(row(name, module, *(f"{parts[part]:.1e}" for part in PARTS)), flush=True)
    return 0


class _Lane(Lane):
    """A video whose outputs are scored several times: a slot is an identity, with the handover, and as annotated."""

    def __init__(self, place: int, dataset: VideoDataset, contract):
        super().__init__(place, video := dataset.videos[place], contract)
        slots, linked, annotated = (VideoScorer(self.letterbox, ScoringOptions()) for _ in range(3))
        self.scorers = {"slots": slots, "handover": linked, "annotation": annotated}
        self.linked = Rollout(linked, contract)
        self.tubes = [
            compress(list(o.segmentations), video.height, video.width) for o in video.objects if not o.iscrowd
        ]


def score(model, dataset: VideoDataset, annotated: bool = False) -> dict[str, Any]:
    """AP in percent with its draws, identities and returns of a data set, by slots and with the handover; and with
    identities from the annotation."""
    backend = EagerBackend(model)
    match_classes(dataset, backend.contract.class_names)  # the same, in the same order
    session = VideoSession(backend)
    lanes = (_Lane(place, dataset, backend.contract) for place in range(len(dataset.videos)))
    truth, categories = ground_truth(dataset), [category.id for category in dataset.categories]
    boards = {"slots": _Board(), "handover": _Board(), **({"annotation": _Board()} if annotated else {})}
    for round_ in rounds(lanes, [session], frames=frames_of(dataset), streams=8, what=dataset.name):
        outputs = step(session, round_)
        for lane in round_:
            found = outputs[lane.place]
            lane.scorers["slots"].add(found)
            lane.scorers["handover"].add(lane.linked.link(found))
            if annotated:
                masks, _ = lane.scorers["slots"].frames()[-1]
                truths = [tube[lane.time] for tube in lane.tubes]
                lane.scorers["annotation"].add(as_annotated(found, masks, truths))
            for name in boards if lane.last else ():
                boards[name].add(lane, lane.scorers[name], categories)
    videos = len(dataset.videos)
    draws = np.random.default_rng(0).multinomial(videos, np.full(videos, 1 / videos), DRAWS)
    counts = np.concatenate([np.ones((1, videos), np.int64), draws])
    return {name: board.to_json(truth, counts) for name, board in boards.items()}


class _Board:
    """What a model found in the videos that are done."""

    def __init__(self) -> None:
        self.results: list[dict] = []
        self.identities = IdentityReport()
        self.returns: Counter[tuple[int, bool | None]] = Counter()

    def add(self, lane: _Lane, scorer: VideoScorer, categories: list[int]) -> None:
        self.results += scorer.results(lane.video.id, categories)
        seen = scorer.seen()
        self.identities += identity_switches(lane.tubes, seen)
        for found in returns(lane.tubes, seen):
            place = next(n for n, (_, most) in enumerate(ABSENCES) if found.absent <= most)
            self.returns[place, found.same] += 1

    def to_json(self, truth: dict, counts: np.ndarray) -> dict[str, Any]:
        ap = 100 * ap_of_draws(truth, self.results, counts)
        back = [{kind: self.returns[place, same] for kind, same in (("same", True), ("other", False), ("none", None))}
                for place in range(len(ABSENCES))]  # fmt: skip
        return {
            "AP": ap[0],
            "draws": np.round(ap[1:], 4).tolist(),
            "switches": self.identities.switches_per_100_frames,
            "covered": 100 * self.identities.coverage,
            "returns": back,
        }


def pack(options: argparse.Namespace) -> int:
    """Add a folder's results to an archive; a variant and seed that it has already is replaced."""
    new = _rows(options.output)
    if not new:
        raise L2GError(f"{options.output}: no results found; run `ablation.py run` with this --output first")
    there = _rows(options.archive) if options.archive.exists() else []
    rows = {(row["variant"], row["seed"]): row for row in (*there, *new)}
    if len({json.dumps([row.get(key) for key in FACTS]) for row in rows.values()}) > 1:
        raise L2GError(f"{options.archive}: has runs with other options than {options.output}; give another --archive")
    text = json.dumps([rows[key] for key in sorted(rows)], separators=(",", ":"))
    write_bytes(options.archive, gzip.compress(text.encode(), mtime=0), L2GError)
    print(f"{options.archive}: {len(rows)} runs")
    return 0


def _rows(output: Path) -> list[dict]:
    """The results in a folder of runs, or in an archive."""
    if not output.is_file():
        return [json.loads(path.read_text()) for path in output.glob("*/result.json")]
    try:
        found: list[dict] = json.loads(gzip.decompress(output.read_bytes()))
        return found
    except (OSError, EOFError, ValueError) as error:
        raise L2GError(f"{output}: no archive of results ({error}); `ablation.py pack` writes one") from None


def read(output: Path) -> dict[str, list[dict]]:
    """The results that are there: variant -> its runs, by seed."""
    by_seed = sorted(_rows(output), key=lambda row: row["seed"])
    runs = {name: [row for row in by_seed if row["variant"] == name] for name in VARIANTS}
    return {name: found for name, found in runs.items() if found}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
