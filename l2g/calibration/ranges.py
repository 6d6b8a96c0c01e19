"""The range of a tensor, from a histogram of its values: by its largest value, by percentile, or by entropy.

ONNX Runtime's own calibrators hold every output of every frame until the end, and with their default of 128 bins
"entropy" is the largest value; so the histograms are ours. They are filled frame by frame and never grow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METHODS = ("max", "percentile", "entropy")
# Ranges per tensor, each by the method whose rounding error is smallest on the recorded values.
AUTO = "auto"
BINS = 8192
# 8 of 10 TensorRT and ONNX Runtime examples cut here; 99.9 already clips what small objects say.
PERCENTILE = 99.99
# The entropy of TensorRT's calibrators: 128 levels of magnitude, thresholds tried in steps of 1/128 of the range.
LEVELS, ENTROPY_BINS = 128, 2048
# Values of one tensor and frame that are counted; of a larger one every so-manyth, and its extremes exactly. Counting
# all 10^9 values of an R50's frame took two minutes. The stride is odd, so as to meet every column and channel.
MOST_VALUES = 1 << 18


@dataclass(frozen=True)
class Interval:
    """What 8 bits are to span: low <= 0 <= high, so that zero is represented exactly."""

    low: float
    high: float


class Histogram:
    """Counts of values over -limit..limit. A value beyond it doubles the limit, and neighbouring bins become one.

    After any number of `add`s the largest value lies in the outer half, so a bin is never wider than 1/2048 of it.
    """

    def __init__(self):
        self.limit = 0.0
        self.counts = np.zeros(BINS, np.int64)
        self.low = self.high = 0.0

    def add(self, values: np.ndarray) -> None:
        """Count `values`, any shape and floating type. ValueError where one is not finite."""
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        if not np.isfinite([low, high]).all():
            raise ValueError("a value that is not finite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach(max(-low, high))
        values = values.ravel()[:: values.size // MOST_VALUES | 1]
        if self.limit:
            # A multiplication and a cast: np.histogram takes ten times as long.
            places = ((values + self.limit) * (BINS / (2 * self.limit))).astype(np.int32)
            self.counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)
        else:
            self.counts[BINS // 2] += values.size

    def magnitudes(self) -> np.ndarray:
        """Counts of the absolute value over 0..limit, int64 [BINS / 2]."""
        return self.counts[BINS // 2 :] + self.counts[: BINS // 2][::-1]

    def to_array(self) -> np.ndarray:
        """float64 [3 + BINS]: limit, low, high, counts (exact below 2^53)."""
        return np.concatenate([[self.limit, self.low, self.high], self.counts])

    @classmethod
    def from_array(cls, array: np.ndarray) -> Histogram:
        if array.shape != (3 + BINS,) or not np.isfinite(array).all() or array[3:].min() < 0:
            raise ValueError(f"{array.dtype} {list(array.shape)} found, finite counts of {BINS} bins expected")
        histogram = cls()
        histogram.limit, histogram.low, histogram.high = map(float, array[:3])
        histogram.counts = array[3:].astype(np.int64)
        return histogram

    def _reach(self, largest: float) -> None:
        if not largest:
            return
        if not self.limit:
            # Zeros counted so far are in the middle already. Just above, so that the largest value is inside.
            self.limit = largest * (1 + 1e-6)
        while self.limit < largest:
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : -BINS // 4] = pairs
            self.limit *= 2


def interval(histogram: Histogram, method: str, percentile: float = PERCENTILE) -> Interval:
    """The range of a tensor by one method; values beyond it will be clipped. ValueError for another method."""
    if method == "max":
        return Interval(histogram.low, histogram.high)
    if method == "percentile":
        threshold = _percentile(histogram, percentile)
    elif method == "entropy":
        threshold = _entropy(histogram)
    else:
        raise ValueError(f"method '{method}' found, one of {', '.join(METHODS)} expected")
    return Interval(max(histogram.low, -threshold), min(histogram.high, threshold))


def best_method(histogram: Histogram, symmetric: bool, percentile: float = PERCENTILE) -> str:
    """The method whose range loses least, by the mean square over the recorded values."""
    return min(METHODS, key=lambda m: rounding_error(histogram, interval(histogram, m, percentile), symmetric))


def rounding_error(histogram: Histogram, span: Interval, symmetric: bool) -> float:
    """Mean square of what quantising to 8 bits over `span` does to the recorded values."""
    centres = (np.arange(BINS) + 0.5) * (2 * histogram.limit / BINS) - histogram.limit
    centres[[BINS // 2 - 1, BINS // 2]] = 0.0  # most of a rectified tensor is exactly zero
    error = centres - fake_quantise(centres, span, symmetric)
    return float((histogram.counts * error**2).sum() / max(histogram.counts.sum(), 1))


def fake_quantise(values: np.ndarray, span: Interval, symmetric: bool) -> np.ndarray:
    """What comes back from 8 bits, in float64."""
    scale, zero = scale_and_zero(span, symmetric)
    low, high = (-128, 127) if symmetric else (0, 255)
    return (np.clip(np.rint(values / scale) + zero, low, high) - zero) * scale


def scale_and_zero(span: Interval, symmetric: bool) -> tuple[float, int]:
    """Scale and zero point: int8 about zero, or uint8 from low to high."""
    if symmetric:
        return max(-span.low, span.high, 1e-8) / 127, 0
    scale = max(span.high - span.low, 1e-8) / 255
    return scale, int(np.clip(np.rint(-span.low / scale), 0, 255))


def _percentile(histogram: Histogram, percentile: float) -> float:
    """The magnitude that so many percent of the values stay under, at the upper edge of its bin."""
    shares = np.cumsum(histogram.magnitudes())
    place = int(np.searchsorted(shares, shares[-1] * percentile / 100))
    return (min(place, len(shares) - 1) + 1) * 2 * histogram.limit / BINS


def _entropy(histogram: Histogram) -> float:
    """The threshold on the magnitude at which 128 levels tell least wrong (Kullback-Leibler) of the distribution.

    As TensorRT's entropy calibrator does it (S. Migacz, 8-bit inference with TensorRT, GTC 2017): what is clipped
    counts at the edge in the reference, and not at all in the quantised distribution. Zeros are left out of both: after
    a ReLU they are most of the values, and they are represented exactly.
    """
    fine = histogram.magnitudes().astype(np.float64)
    fine[0] = 0
    largest = max(-histogram.low, histogram.high)
    used = int(np.ceil(largest * BINS / (2 * histogram.limit))) if histogram.limit else 0
    if used < LEVELS:
        return largest
    edges = np.linspace(0, used, ENTROPY_BINS + 1).astype(int) if used > ENTROPY_BINS else np.arange(used + 1)
    counts = np.add.reduceat(fine[:used], edges[:-1])
    total = counts.sum()
    if not total:
        return largest
    step = max(len(counts) // LEVELS, 1)
    ends = [*range(max(LEVELS, step), len(counts), step), len(counts)]
    best = min(ends, key=lambda end: _divergence(counts, end, total))
    return largest if best == len(counts) else float(edges[best]) * 2 * histogram.limit / BINS


def _divergence(counts: np.ndarray, end: int, total: float) -> float:
    """Kullback-Leibler divergence of the first `end` bins in 128 levels from the distribution clipped to them."""
    reference = counts[:end].copy()
    reference[-1] += total - reference.sum()
    starts = np.arange(LEVELS) * end // LEVELS
    present = counts[:end] > 0
    sums, filled = np.add.reduceat(counts[:end], starts), np.add.reduceat(present.astype(np.float64), starts)
    widths = np.diff([*starts, end])
    level = np.repeat(np.divide(sums, filled, out=np.zeros(LEVELS), where=filled > 0), widths)
    quantised = np.where(present, level, 0)
    if not quantised.sum():
        return np.inf
    # A smoothing far below one count, so that a clipped tail at an empty edge is dear but not infinitely so.
    p, q = reference / total, (quantised + 1e-4 * (reference > 0)) / (quantised.sum() + 1e-4 * (reference > 0).sum())
    where = p > 0
    return float((p[where] * np.log(p[where] / q[where])).sum())
