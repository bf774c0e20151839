"""Counter-based randomness: every draw is a function of what it is for, never of when it is made.

Raw Philox-4x64 words are the only thing taken from numpy, whose Generator methods may change between
versions; uniforms, normals and permutations are defined here. Integers are exact on any machine,
floats agree to the last bits of `log` and `sqrt` (1e-12).
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

# Of `random_rows`, which are made that many at a time: more leave the processor's cache.
_BLOCKS_IN_CACHE = 1 << 14


def name_key(name: str) -> int:
    """64-bit key of a name, the same in every process (unlike `hash`)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def random_words(seed: int, name: str, *counter: int, count: int) -> NDArray[np.uint64]:
    """`count` Philox-4x64-10 words keyed by (seed, name) at a counter of up to three integers.

    Streams of different counters never overlap: the lowest counter word is left to the sequence itself.
    """
    words = [0, *counter, *[0] * (3 - len(counter))]
    bits = np.random.Philox(key=np.array([seed, name_key(name)], np.uint64), counter=np.array(words, np.uint64))
    return np.asarray(bits.random_raw(count), np.uint64)


def random_rows(seed: int, name: str, *counters: NDArray[np.int64] | int, count: int) -> NDArray[np.uint64]:
    """`random_words` of many counters at once, [N, count]: counters are arrays [N], or numbers that all rows share."""
    numbers = [np.atleast_1d(np.asarray(counter, np.uint64)) for counter in (*counters, *[0] * (3 - len(counters)))]
    rows = np.stack(np.broadcast_arrays(*numbers))
    key = seed, name_key(name)
    blocks = -(-count // 4)
    words = np.empty((rows.shape[1], blocks, 4), np.uint64)
    # numpy's Philox counts up before its first block.
    lowest = np.arange(1, blocks + 1, dtype=np.uint64)[None]
    step = max(1, _BLOCKS_IN_CACHE // blocks)
    for start in range(0, len(words), step):
        part = slice(start, start + step)
        for word, column in enumerate(_philox(key, [lowest, *rows[:, part, None]])):
            words[part, :, word] = column
    return words.reshape(len(words), 4 * blocks)[:, :count]


def uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Words to the open interval (0, 1): 52 bits, offset by half a step so that neither end occurs.

    With 53 bits the topmost value would round to 1, whose normal quantile is infinite.
    """
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def integers_below(bound: int | NDArray[np.int64], words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Words to integers in [0, bound), exact on any machine; bias below bound / 2**32. Each word may have its bound."""
    return (((words >> _HALF) * np.asarray(bound, np.uint64)) >> _HALF).astype(np.int64)


def normal_quantile(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of the standard normal distribution, relative error about 1e-16 (Wichura 1988, AS 241, PPND16)."""
    q = p - 0.5
    central = np.abs(q) <= 0.425
    r = np.where(central, 0.180625 - q * q, 1.0)
    quantiles: NDArray[np.float64] = q * _ratio(r, _CENTRAL_NUMERATOR, _CENTRAL_DENOMINATOR)
    # Three of twenty draws lie further out.
    outer = ~central
    tail = np.sqrt(-np.log(np.minimum(p[outer], 1.0 - p[outer])))
    near = _ratio(tail - 1.6, _NEAR_NUMERATOR, _NEAR_DENOMINATOR)
    far = _ratio(tail - 5.0, _FAR_NUMERATOR, _FAR_DENOMINATOR)
    quantiles[outer] = np.sign(q[outer]) * np.where(tail <= 5.0, near, far)
    return quantiles


def normal(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Words to standard normal draws."""
    return normal_quantile(uniform(words))


def truncated_normal(words: NDArray[np.uint64], bound: float) -> NDArray[np.float64]:
    """Words to standard normal draws conditioned on |z| <= bound, by inversion: one word a draw."""
    tail = 0.5 * math.erfc(bound / math.sqrt(2.0))
    return normal_quantile(tail + uniform(words) * (1.0 - 2.0 * tail))


def draw_without_replacement(population: int, words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Words [n] to n different integers in [0, population), in draw order (partial Fisher-Yates); or rows [N, n]."""
    drawn = np.arange(words.shape[-1])
    places = (drawn + integers_below(population - drawn, words)).reshape(-1, len(drawn))
    pool = np.tile(np.arange(population), (len(places), 1))
    rows = np.arange(len(places))
    for i, j in enumerate(places.T):
        pool[rows, j], pool[:, i] = pool[:, i].copy(), pool[rows, j]
    return pool[:, : len(drawn)].reshape(words.shape)


class Permutation:
    """A seeded permutation of range(size) that is evaluated where it is needed, in no memory.

    A Feistel network over the next even number of bits, walked along its cycle until it falls below `size`
    (Black & Rogaway 2002). Any slice, and the inverse, cost time in proportion to the slice alone: a dataset of a
    million shards is planned one shard at a time.
    """

    ROUNDS = 8

    def __init__(self, size: int, seed: int, name: str) -> None:
        self.size = size
        self._half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = random_words(seed, name, count=self.ROUNDS)

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Elements at `positions` [N] of the permuted order."""
        return self._walk(positions, self._keys, inverse=False)

    def inverse(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions [N] at which `elements` stand in the permuted order."""
        return self._walk(elements, self._keys[::-1], inverse=True)

    def _walk(self, values: NDArray[np.int64], keys: NDArray[np.uint64], inverse: bool) -> NDArray[np.int64]:
        out = np.asarray(values, np.uint64).copy()
        outside = np.ones(out.shape, bool)
        while outside.any():
            out[outside] = self._feistel(out[outside], keys, inverse)
            outside = out >= np.uint64(self.size)
        return out.astype(np.int64)

    def _feistel(self, x: NDArray[np.uint64], keys: NDArray[np.uint64], inverse: bool) -> NDArray[np.uint64]:
        left, right = x >> self._half, x & self._mask
        for key in keys:
            if inverse:
                left, right = right ^ (_mix(left ^ key) & self._mask), left
            else:
                left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalizer of SplitMix64 (Steele, Lea & Flood 2014): every output bit depends on every input bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _philox(key: tuple[int, int], counter: list[NDArray[np.uint64]]) -> list[NDArray[np.uint64]]:
    """Philox-4x64-10 (Salmon et al. 2011) of counters given as four arrays, lowest word first, that broadcast."""
    for turn in range(10):
        key_0, key_1 = (np.uint64((k + turn * weyl) % 2**64) for k, weyl in zip(key, _PHILOX_WEYL, strict=True))
        high_0, high_1 = (_high_product(m, counter[i]) for m, i in zip(_PHILOX_MULTIPLIERS, (0, 2), strict=True))
        low_0, low_1 = (m * counter[i] for m, i in zip(_PHILOX_MULTIPLIERS, (0, 2), strict=True))
        counter = [high_1 ^ counter[1] ^ key_0, low_1, high_0 ^ counter[3] ^ key_1, low_0]
    return counter


def _high_product(a: np.uint64, b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The upper 64 of the 128 bits of a * b, from products of halves."""
    a_high, a_low, b_high, b_low = a >> _HALF, a & _LOW, b >> _HALF, b & _LOW
    middle = a_high * b_low + (a_low * b_low >> _HALF)
    high: NDArray[np.uint64] = a_high * b_high + (middle >> _HALF) + (a_low * b_high + (middle & _LOW) >> _HALF)
    return high


_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_PHILOX_MULTIPLIERS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_PHILOX_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B


def _ratio(x: NDArray[np.float64], numerator: list[float], denominator: list[float]) -> NDArray[np.float64]:
    return np.polyval(numerator, x) / np.polyval(denominator, x)


# Coefficients of AS 241, highest power first.
_CENTRAL_NUMERATOR = [
    2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
    1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0,
]  # fmt: skip
_CENTRAL_DENOMINATOR = [
    5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
    5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0,
]  # fmt: skip
_NEAR_NUMERATOR = [
    7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
    3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0,
]  # fmt: skip
_NEAR_DENOMINATOR = [
    1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
    6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0,
]  # fmt: skip
_FAR_NUMERATOR = [
    2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
    2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0,
]  # fmt: skip
_FAR_DENOMINATOR = [
    2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
    1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0,
]  # fmt: skip
