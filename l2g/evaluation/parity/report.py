"""What a parity run found: per-frame curves, where it diverged, AP of both, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from l2g.contract import GraphContract
from l2g.evaluation.parity.frame import FrameDifference, SegmentAgreement
from l2g.evaluation.parity.pictures import WorstFrame

QUARTERS = 4
# Frames beyond tolerance from the same state, at most this share of all: a decision fell otherwise, now and then.
RARE = 0.01


@dataclass(frozen=True)
class Limits:
    """What a candidate may differ by.

    precision: of the candidate, "fp32" or a reduced one. ap: percent points of AP; of a reduced precision those that
    are lost, since its budget is one of losses. mask_logits: largest difference of a mask logit, teacher-forced, and of
    the typical slot's in a first frame; None: shown, not judged. identity: least percentage of the counting slots that
    hold the same object in the free run. reason: where the numbers come from. vpq: as `ap`, percent points of VPQ.
    segments: least percentage of the segments of the free run's maps that both sides have.
    """

    precision: str
    ap: float
    mask_logits: float | None
    identity: float
    reason: str
    vpq: float
    segments: float


# A reduced precision is another model, and the question is what it costs: AP within the budgets of `l2g export
# --precision auto` and `l2g quantize`, 95 % of the identities as the former wants. On `synthetic:long` the FP16 file of
# `l2g_tiny` kept 99.6 % and the INT8 one 97.4 (MODEL_CARD.md); of the mistakes in docs/concepts/state.md, those that
# change identities within 36 frames kept 91 at most. Mask logits have no honest limit: FP16 moves those of `l2g_tiny`
# by 1.5 while AP and identities stay, and how far another model's move follows from the size of its activations.
_COSTS = "what it may cost; mask logits follow the size of a model's activations and are shown, not judged"
_LIMITS = {
    limits.precision: limits
    for limits in (
        Limits("fp32", 0.02, 1e-3, 99.9, "the same arithmetic: only rounding may differ", 0.05, 99.9),
        # Of FP32 whose products were rounded to 10 bits: as many as FP16 has.
        Limits("tf32", 0.2, None, 95.0, _COSTS, 0.2, 95.0),
        Limits("bf16", 0.2, None, 95.0, _COSTS, 0.2, 95.0),
        Limits("fp16", 0.2, None, 95.0, _COSTS, 0.2, 95.0),
        Limits("int8", 0.5, None, 95.0, _COSTS, 0.5, 95.0),
    )
}


@dataclass(frozen=True)
class Tolerances:
    """Limits that were asked for, see `Limits`; None: that of the candidate's precision."""

    ap: float | None = None
    mask_logits: float | None = None
    identity: float | None = None
    vpq: float | None = None
    segments: float | None = None

    def limits(self, contract: GraphContract) -> Limits:
        """For a candidate with this contract. One that names no precision, or one unknown here, is held to FP32's."""
        limits = _LIMITS.get(contract.build.precision or "fp32", _LIMITS["fp32"])
        asked = {name: value for name, value in asdict(self).items() if value is not None}
        reason = f"{limits.reason}; asked for: {', '.join(f'{n} {v:g}' for n, v in asked.items())}" if asked else ""
        return replace(limits, **asked, reason=reason or limits.reason)


@dataclass(frozen=True)
class Check:
    """One line of the verdict. value: None where nothing could be measured, which does not pass; detail says why.

    limit: None for what is shown and not judged, which passes.
    """

    name: str
    value: float | None
    limit: float | None
    passed: bool
    detail: str = ""

    @property
    def mark(self) -> str:
        return "info" if self.limit is None else "ok" if self.passed else "FAIL"


@dataclass(frozen=True)
class VideoParity:
    """One video, frame by frame. forced: the candidate was given the reference's state; free: it fed back its own.

    segments: of the free run's maps, where these were compared.
    """

    id: int | str
    name: str
    forced: tuple[FrameDifference, ...]
    free: tuple[FrameDifference, ...]
    segments: tuple[SegmentAgreement, ...] = ()


@dataclass(frozen=True)
class Divergence:
    """Where two runs part."""

    video: str
    frame: int


@dataclass(frozen=True)
class ParityReport:
    """The result of `run_parity`.

    limits: what the candidate was held to. metric: "AP", or "VPQ" where maps of things and stuff were compared.
    ap_reference, ap_candidate: the evaluator's statistics in percent by name, one of them the metric; None where they
    were not asked for.
    carries_state: False for an image model, whose every frame is a first frame. notes: how classes were matched, where
    there is something to say.
    """

    reference: str
    candidate: str
    dataset: str
    confidence: float
    limits: Limits
    carries_state: bool
    videos: tuple[VideoParity, ...]
    ap_reference: dict[str, float | None] | None
    ap_candidate: dict[str, float | None] | None
    worst: tuple[WorstFrame, ...]
    notes: tuple[str, ...] = ()
    metric: str = "AP"

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def checks(self) -> tuple[Check, ...]:
        checks = [self._mask_check(), self._first_frame_check(), self._identity_check(), self._finite_check()]
        if self.metric == "VPQ":
            checks.insert(0, self._segments_check())
        if self.ap_reference is not None:
            checks.insert(0, self._ap_check())
        return tuple(checks)

    def diverged(self, video: VideoParity, mode: str) -> int | None:
        """The first frame of a video that is beyond its limit, mode "forced" or "free"; None where none is.

        Without a limit of the mask logits there is none of "forced".
        """
        for number, difference in enumerate(getattr(video, mode)):
            if mode == "free":
                beyond = difference.agreeing < difference.counting or not difference.finite
            else:
                beyond = _beyond(self._mask_error(difference), self.limits.mask_logits)
            if beyond:
                return number
        return None

    def first_divergence(self, mode: str) -> Divergence | None:
        """The earliest such frame of any video."""
        frames = ((self.diverged(video, mode), video.name) for video in self.videos)
        found = [Divergence(name, frame) for frame, name in frames if frame is not None]
        return min(found, key=lambda divergence: divergence.frame, default=None)

    def drift(self) -> tuple[dict[str, float | None], ...]:
        """The free run by quarter of its videos' length: a flat drift reads the same four times."""
        quarters: list[list[FrameDifference]] = [[] for _ in range(QUARTERS)]
        for video in self.videos:
            for number, difference in enumerate(video.free):
                quarters[number * QUARTERS // len(video.free)].append(difference)
        return tuple(
            {
                "mask_logits_mean": _mean(d.mask_logits.mean for d in quarter),
                "mask_iou": _mean(d.mask_iou for d in quarter),
                "identity": _identity(quarter),
            }
            for quarter in quarters
        )

    @property
    def findings(self) -> tuple[str, ...]:
        """What the pattern of the differences says of their cause."""
        limit = self.limits.mask_logits
        if limit is None:
            return self._findings_of_identities()
        first = max((d.mask_logits.typical for d in self._frames("forced", first=True)), default=0.0)
        later = max((d.mask_logits.max for d in self._frames("forced", first=False)), default=0.0)
        if not self.carries_state:
            return ("first frames differ: weights, kernels or the preprocessing",) if first > limit else ()
        if first > limit and later > limit:
            return ("first and later frames differ from the same state: weights, kernels or the preprocessing",)
        if first > limit:
            return (
                "first frames differ, later frames agree from the same state: the graph does not honour the validity "
                "input, or its first frame is not the model's",
            )
        errors = [d.mask_logits.max for d in self._frames("forced", first=False)]
        beyond = sum(error > limit for error in errors)
        if 0 < beyond <= RARE * len(errors):
            return (
                f"{beyond} of {len(errors)} later frames differ from the same state and all others agree: a decision "
                "on equal numbers fell otherwise there (two tokens' scores, the edge of a mask), "
                "see docs/concepts/parity.md",
            )
        if later > limit:
            return (
                "first frames agree, later frames differ from the same state: the state does not enter the graph as "
                "it should (another stream's rows, another order, a changed precision)",
            )
        if self.first_divergence("free"):
            return (
                "every frame agrees from the same state, but the free run drifts: small errors add up over frames "
                "(benchmarks/state.py --only nudged tells how much of that the model does by itself)",
            )
        return ()

    def _findings_of_identities(self) -> tuple[str, ...]:
        found = self.first_divergence("free")
        if self.passed or not found:
            return ()
        return (
            f"the runs part in frame {found.frame} of {found.video}; to see whether kernels or the state are to blame, "
            "compare the FP32 file that this one was made from",
        )

    def to_json(self) -> dict:
        """Numbers that are not finite become null."""
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "dataset": self.dataset,
            "confidence": self.confidence,
            "passed": self.passed,
            "checks": [_plain(asdict(check)) for check in self.checks],
            "findings": list(self.findings),
            "notes": list(self.notes),
            "precision": self.limits.precision,
            "tolerances": _plain({name: getattr(self.limits, name) for name in self._judged}),
            "tolerances_reason": self.limits.reason,
            "first_divergence": {mode: self._divergence_json(mode) for mode in ("forced", "free")},
            "ap": self._ap_json("AP"),
            **({"vpq": self._ap_json("VPQ")} if self.metric == "VPQ" else {}),
            "drift_by_quarter": [_plain(quarter) for quarter in self.drift()],
            "frames": sum(len(video.free) for video in self.videos),
            "videos": [
                {
                    "id": video.id,
                    "name": video.name,
                    "frames": len(video.free),
                    "first_divergence": {mode: self.diverged(video, mode) for mode in ("forced", "free")},
                    "forced": curves(video.forced),
                    "free": curves(video.free),
                    **({"segments": [list(found) for found in video.segments]} if self.metric == "VPQ" else {}),
                }
                for video in self.videos
            ],
            "worst_frames": [{"video": frame.video, "frame": frame.frame} for frame in self.worst],
        }

    def table(self) -> str:
        """The verdict in a few lines."""
        lines = [f"{self.candidate} against {self.reference} on {self.dataset}: {'PASS' if self.passed else 'FAIL'}"]
        lines.append(self.limits_line())
        for check in self.checks:
            value = "n/a" if check.value is None else f"{check.value:.4g}"
            limit = "no limit" if check.limit is None else f"limit {check.limit:g}"
            lines.append(f"{check.mark:<5}{check.name:<52}{value:>10}  ({limit}) {check.detail}".rstrip())
        for mode, words in (("forced", "teacher-forced"), ("free", "free-running")):
            lines.append(f"first diverging frame, {words}: {self.divergence_text(mode)}")
        lines += [f"finding: {finding}" for finding in self.findings]
        return "\n".join(lines)

    def limits_line(self) -> str:
        """Which limits were taken, and why."""
        return f"limits for {self.limits.precision.upper()}: {self.limits.reason}"

    def divergence_text(self, mode: str) -> str:
        """Where the runs part first, mode "forced" or "free", in words."""
        if mode == "forced" and self.limits.mask_logits is None:
            return "not judged"
        found = self.first_divergence(mode)
        return f"frame {found.frame} of video {found.video}" if found else "nowhere"

    def _mask_error(self, difference: FrameDifference) -> float:
        """A first frame may hold another slot than the reference's where two were as good; the typical one tells."""
        return difference.mask_logits.typical if difference.first else difference.mask_logits.max

    def _frames(self, mode: str, first: bool) -> list[FrameDifference]:
        return [d for video in self.videos for d in getattr(video, mode) if d.first == first]

    def _mask_check(self) -> Check:
        limit = self.limits.mask_logits
        name = "teacher-forced mask logits after the first frame"
        values = [d.mask_logits.max for d in self._frames("forced", first=False)]
        if not self.carries_state:
            return Check(name, 0.0, limit, True, "an image model: every frame is a first frame")
        if not values:
            return Check(name, None, limit, False, "no video has a second frame; use longer videos")
        beyond = sum(_beyond(value, limit) for value in values)
        return Check(name, max(values), limit, not beyond, f"{beyond} of {len(values)} frames beyond" if beyond else "")

    def _first_frame_check(self) -> Check:
        limit = self.limits.mask_logits
        worst = max(d.mask_logits.typical for d in self._frames("forced", first=True))
        return Check("first-frame mask logits of the typical slot", worst, limit, not _beyond(worst, limit))

    def _identity_check(self) -> Check:
        limit = self.limits.identity
        share = _identity([d for video in self.videos for d in video.free])
        if share is None:
            detail = f"no slot reaches confidence {self.confidence:g}; lower it with --confidence"
            return Check("identity agreement of the free run, percent", None, limit, False, detail)
        return Check("identity agreement of the free run, percent", share, limit, share >= limit)

    def _finite_check(self) -> Check:
        bad = sum(not d.finite for video in self.videos for mode in (video.forced, video.free) for d in mode)
        return Check("frames with NaN or infinity", float(bad), 0.0, bad == 0)

    def _ap_check(self) -> Check:
        lost_only = self.limits.precision != "fp32"
        name = f"{self.metric} {'loss' if lost_only else 'difference'}, percent points"
        limit = self.limits.vpq if self.metric == "VPQ" else self.limits.ap
        one, other = ((ap or {}).get(self.metric) for ap in (self.ap_reference, self.ap_candidate))
        if one is None or other is None:
            return Check(name, None, limit, False, "the data set holds no annotation that counts; use --no-ap")
        gap = one - other if lost_only else abs(one - other)
        # Percentages are rounded to nothing here; the last bits of two sums must not decide.
        return Check(name, gap, limit, gap <= limit + 1e-9, f"{one:.2f} and {other:.2f}")

    @property
    def _judged(self) -> tuple[str, ...]:
        """Names of the limits that were looked at."""
        return (
            ("vpq", "segments", "mask_logits", "identity")
            if self.metric == "VPQ"
            else ("ap", "mask_logits", "identity")
        )

    def _segments_check(self) -> Check:
        limit, name = self.limits.segments, "segments of the free run's maps that are the same, percent"
        counting = sum(found.counting for video in self.videos for found in video.segments)
        agreeing = sum(found.agreeing for video in self.videos for found in video.segments)
        if not counting:
            return Check(name, None, limit, False, "no frame has a segment; lower --object-mask-threshold")
        share = 100 * agreeing / counting
        return Check(name, share, limit, share >= limit, f"{counting - agreeing} of {counting} are not")

    def _ap_json(self, metric: str) -> dict | None:
        if self.ap_reference is None or self.ap_candidate is None or metric != self.metric:
            return None
        pairs = ((name, value, self.ap_candidate[name]) for name, value in self.ap_reference.items())
        gaps = {name: None if one is None or other is None else other - one for name, one, other in pairs}
        return {"reference": self.ap_reference, "candidate": self.ap_candidate, "difference": gaps}

    def _divergence_json(self, mode: str) -> dict | None:
        found = self.first_divergence(mode)
        return asdict(found) if found else None


def curves(differences: tuple[FrameDifference, ...]) -> dict[str, list]:
    """One list per measure, a number per frame, four digits; null where a number is not finite."""
    found: dict[str, list] = {}
    for item in fields(FrameDifference):
        values = [getattr(d, item.name) for d in differences]
        if None in values:
            continue  # boxes of models that have none
        if item.name in ("queries", "boxes", "logits", "mask_logits"):
            for part in ("max", "mean", "typical"):
                found[f"{item.name}_{part}"] = [_number(getattr(value, part)) for value in values]
        else:
            found[item.name] = [_number(value) for value in values]
    return found


def by_frame(
    videos: tuple[VideoParity, ...], mode: str, measure: Callable[[FrameDifference], float], reduce: Callable
) -> list[float]:
    """`reduce` of `measure` over all videos that have a frame t, for every t; NaN where none has a number."""
    longest = max(len(video.free) for video in videos)
    points = []
    for t in range(longest):
        values = [measure(getattr(video, mode)[t]) for video in videos if t < len(video.free)]
        values = [value for value in values if not math.isnan(value)]
        points.append(float(reduce(values)) if values else float("nan"))
    return points


def _beyond(value: float, limit: float | None) -> bool:
    """Of a limit that may not be there. NaN is beyond any."""
    return limit is not None and not value <= limit


def _identity(differences: Iterable[FrameDifference]) -> float | None:
    """Percent, None where no slot counts."""
    counting = agreeing = 0
    for difference in differences:
        counting, agreeing = counting + difference.counting, agreeing + difference.agreeing
    return 100 * agreeing / counting if counting else None


def _mean(values: Iterable[float]) -> float | None:
    found = [value for value in values if not math.isnan(value)]
    return float(np.mean(found)) if found else None


def _number(value: float) -> float | int | bool | None:
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _plain(record: dict) -> dict:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
