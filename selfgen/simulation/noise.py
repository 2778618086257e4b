"""Repeatable randomness without state: a number for (seed, keys), whatever was asked before or beside it.

So a simulation gives the same messages however it is cut into pieces, and needs no memory of the past.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_Key = int | NDArray[np.integer[Any]]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's finalizer (Steele, Lea and Flood, 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniform(seed: int, *keys: _Key) -> Floats:
    """Return numbers in [0, 1), one for each combination of the keys, which broadcast against each other."""
    with np.errstate(over="ignore"):
        bits = _mix(np.asarray(seed).astype(np.uint64) + _GOLDEN)
        for key in keys:
            bits = _mix((bits ^ np.asarray(key).astype(np.uint64)) + _GOLDEN)
    return np.asarray(bits >> np.uint64(11), np.float64) * 2.0**-53


def smooth(seed: int, key: _Key, times_ms: NDArray[np.int64], period_ms: int) -> Floats:
    """Return smooth noise in (−1, 1) with zero mean: random values every `period_ms`, eased between."""
    step, within = np.divmod(times_ms, period_ms)
    share = within / period_ms
    share = share * share * (3 - 2 * share)
    before, after = uniform(seed, key, step), uniform(seed, key, step + 1)
    noise: Floats = 2 * (before * (1 - share) + after * share) - 1
    return noise


def gusts(seed: int, key: _Key, times_ms: NDArray[np.int64]) -> Floats:
    """Return the factor of a gusty wind on its mean: 0.4 to 1.6, mean 1, periods of 2, 7 and 30 s."""
    swell = smooth(seed, key, times_ms, 30_000)
    gust = smooth(seed + 1, key, times_ms, 7_000)
    flutter = smooth(seed + 2, key, times_ms, 2_000)
    factor: Floats = 1 + 0.3 * swell + 0.2 * gust + 0.1 * flutter
    return factor
