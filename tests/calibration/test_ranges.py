"""Ranges against numpy on the values themselves."""

import itertools

import numpy as np
import pytest

from l2g.calibration.ranges import (
    BINS,
    METHODS,
    Histogram,
    Interval,
    best_method,
    fake_quantise,
    interval,
    rounding_error,
)


def batches(seed=0):
    """Values that grow, so that the histogram has to widen twice, and a batch of zeros before all of them."""
    rng = np.random.default_rng(seed)
    return [np.zeros((3, 5), np.float32)] + [rng.normal(0.1, s, (40, 500)).astype(np.float32) for s in (1, 3, 9)]


def filled(arrays):
    histogram = Histogram()
    for array in arrays:
        histogram.add(array)
    return histogram


def test_the_extremes_are_exact_and_nothing_is_lost():
    arrays = batches()
    values = np.concatenate([array.ravel() for array in arrays])
    histogram = filled(arrays)
    assert interval(histogram, "max") == Interval(float(values.min()), float(values.max()))
    assert histogram.counts.sum() == values.size
    edges = np.linspace(-histogram.limit, histogram.limit, BINS + 1)
    # A value on the border of two bins may count in either.
    assert np.abs(histogram.counts - np.histogram(values, edges)[0]).sum() <= 20


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentiles_are_numpys_to_a_bin(percentile):
    arrays = batches()
    values = np.abs(np.concatenate([array.ravel() for array in arrays]))
    histogram = filled(arrays)
    found = interval(histogram, "percentile", percentile)
    width = 2 * histogram.limit / BINS
    expected = np.percentile(values, percentile, method="inverted_cdf")
    assert found.high == pytest.approx(expected, abs=1.01 * width)
    assert found.low == -found.high


def test_a_rectified_tensor_keeps_its_zero():
    histogram = filled([np.maximum(array, 0) for array in batches()])
    for method in METHODS:
        assert interval(histogram, method).low == 0


def test_entropy_is_the_divergence_of_a_plain_loop():
    """Levels, clipping and divergence written out bin by bin."""
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0, 1, 30000), rng.uniform(20, 40, 5)]).astype(np.float32)
    histogram = filled([values])
    found = interval(histogram, "entropy").high
    counts = [float(c) for c in histogram.magnitudes()]
    counts[0] = 0.0
    used = int(np.ceil(np.abs(values).max() * BINS / (2 * histogram.limit)))
    edges = [used * i // 2048 for i in range(2049)]
    coarse = [sum(counts[a:b]) for a, b in itertools.pairwise(edges)]
    total, best = sum(coarse), (np.inf, None)
    for end in range(128, 2049, 16):
        p = coarse[:end]
        p[-1] += total - sum(p)
        q = [0.0] * end
        for level in range(128):
            a, b = level * end // 128, (level + 1) * end // 128
            present = [i for i in range(a, b) if coarse[i] > 0]
            for i in present:
                q[i] = sum(coarse[a:b]) / len(present)
        q = [x + 1e-4 * (y > 0) for x, y in zip(q, p, strict=True)]
        divergence = sum(y / total * np.log(y / total / (x / sum(q))) for x, y in zip(q, p, strict=True) if y > 0)
        best = min(best, (divergence, end))
    assert found == pytest.approx(edges[best[1]] * 2 * histogram.limit / BINS, rel=1e-6)
    # The five far values are given up, the bulk is not.
    assert 2 < found < 20


def test_rounding_error_is_that_of_the_values():
    values = np.random.default_rng(2).normal(0, 1, 200_000).astype(np.float32)
    histogram = filled([values])
    for symmetric in (True, False):
        for span in (Interval(-4.5, 4.5), Interval(-1.0, 2.0)):
            expected = np.square(values - fake_quantise(values.astype(np.float64), span, symmetric)).mean()
            assert rounding_error(histogram, span, symmetric) == pytest.approx(expected, rel=0.05)


def test_fake_quantisation_by_hand():
    values = np.array([-9.0, -1.0, 0.0, 0.004, 0.5, 1.27, 9.0])
    np.testing.assert_allclose(
        fake_quantise(values, Interval(-1.0, 1.27), True), [-1.28, -1.0, 0, 0, 0.5, 1.27, 1.27], atol=1e-12
    )
    np.testing.assert_allclose(
        fake_quantise(values, Interval(0.0, 2.55), False), [0, 0, 0, 0, 0.5, 1.27, 2.55], atol=1e-12
    )


def test_the_best_method_is_the_one_that_loses_least():
    # One value in a million, far out: clipping it costs less than a step that reaches it.
    far = [np.random.default_rng(seed).normal(0, 1, 200_000).astype(np.float32) for seed in range(5)]
    far.append(np.array([300], np.float32))
    even = np.random.default_rng(3).uniform(-1, 1, 100_000).astype(np.float32)
    assert best_method(filled(far), True) != "max"
    assert best_method(filled([even]), True) == "max"


def test_a_large_tensor_is_sampled_but_its_extremes_are_not():
    values = np.random.default_rng(4).normal(0, 1, (4, 256, 2000)).astype(np.float32)
    values[1, 17, 33] = 50
    histogram = filled([values])
    assert histogram.high == 50
    assert histogram.counts.sum() < values.size / 4
    expected = np.percentile(np.abs(values), 99)
    assert interval(histogram, "percentile", 99).high == pytest.approx(expected, rel=0.05)


def test_what_is_stored_comes_back():
    histogram = filled(batches())
    again = Histogram.from_array(histogram.to_array())
    again.add(np.full(3, 1e3, np.float32))
    histogram.add(np.full(3, 1e3, np.float32))
    np.testing.assert_array_equal(again.to_array(), histogram.to_array())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        Histogram().add(np.array([1, bad], np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_stored_counts_of_no_sense_are_refused(bad):
    """A spoiled cache is one that is not there: see `observe`."""
    array = Histogram().to_array()
    array[7] = bad
    with pytest.raises(ValueError, match="finite counts of"):
        Histogram.from_array(array)
    with pytest.raises(ValueError, match="finite counts of"):
        Histogram.from_array(array[:-1])


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="max, percentile, entropy"):
        interval(Histogram(), "mean")
