"""Random numbers as a function of a key and a counter: the same in PyTorch, C++ and CUDA.

Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).

Words are int64 tensors of values in [0, 2^32). Only +, -, *, comparisons and square roots that are
rounded as IEEE 754 says are used, so every word and every normal has the kernels' bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK = 0xFFFFFFFF


def counter(
    block: Tensor, example: Tensor, sample: Tensor | int, key: Tensor, tag: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of the counter; `key` is the seed and the stream, int64 [2]."""
    stream = (key[1] & 0xFFFF) | (tag << 16)
    sample = torch.as_tensor(sample, device=key.device)
    return block & MASK, example & MASK, sample & MASK, stream


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words for each counter; counters broadcast."""
    c0, c1, c2, c3 = counter
    key0, key1 = seed & MASK, (seed >> 32) & MASK
    for _ in range(10):
        # Products of 64 bits may wrap to negative numbers; the masks take the right bits.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            (p1 >> 32) & MASK ^ c1 ^ key0,
            p1 & MASK,
            (p0 >> 32) & MASK ^ c3 ^ key1,
            p0 & MASK,
        )
        key0, key1 = (key0 + 0x9E3779B9) & MASK, (key1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def uniform(word: Tensor) -> Tensor:
    """In (0, 1], float32: multiples of 2^-24."""
    return ((word >> 8) + 1).float() * 2.0**-24


def natural_log(x: Tensor) -> Tensor:
    """Of positive normal float32 numbers."""
    offset = x.view(torch.int32) - 0x3F3504F3
    e = (offset >> 23).float()
    f = ((offset & 0x007FFFFF) + 0x3F3504F3).view(torch.float32) - 1.0
    p = f * 0.118286311626434326 + -0.189004555344581604
    for coefficient in (
        0.206037193536758423,
        -0.248815149068832397,
        0.33303394913673401,
        -0.50001960992813110,
        1.00000321865081787,
    ):
        p = p * f + coefficient
    return e * 0.6931471805599453 + p * f


def cosine_and_sine_of_turn(word: Tensor) -> tuple[Tensor, Tensor]:
    """Of 2 pi (word / 2^32), the word's low 8 bits ignored, float32."""
    quarter = word >> 30
    x = (word >> 8 & 0x003FFFFF).float() * 3.74507038714000367e-07 + -0.785398163397448310
    z = x * x
    sine = (
        (z * -0.0001950396253960207 + 0.008332036435604095) * z + -0.16666650772094727
    ) * z * x + x
    cosine = (
        ((z * 2.4379880414926447e-05 + -0.0013886619126424193) * z + 0.04166661575436592) * z - 0.5
    ) * z + 1.0
    swapped = quarter % 2 == 1
    first, second = torch.where(swapped, sine, cosine), torch.where(swapped, cosine, sine)
    return (
        torch.where((quarter == 1) | (quarter == 2), -first, first),
        torch.where(quarter >= 2, -second, second),
    )


def exponential_minus_one(x: Tensor) -> Tensor:
    """e^x - 1 of float32 numbers in [0, 64]."""
    k = (x * 1.4426950216293335 + 12582912.0) - 12582912.0
    f = (x - k * 0.693359375) + k * 0.00021219444170128554
    p = f * 0.0013882521307095885 + 0.008366520516574383
    for coefficient in (0.04166720062494278, 0.1666654348373413, 0.4999999701976776):
        p = p * f + coefficient
    p = p * f * f + f
    power = ((k.int() + 127) << 23).view(torch.float32)
    return p * power + (power - 1.0)


def squared_sine_of_quarter(y: Tensor) -> Tensor:
    """sin(pi / 2 * y) squared, of float32 numbers in (0, 1]."""
    z = y * y
    p = z * -0.0008145046303980052 + 0.012731554917991161
    for coefficient in (
        -0.11757247149944305,
        0.6676082611083984,
        -2.0293538570404053,
        2.4674010276794434,
    ):
        p = p * z + coefficient
    return p * z


def square_root(x: Tensor) -> Tensor:
    """By way of float64: torch's float32 square root is not correctly rounded on every CPU."""
    return x.double().sqrt().to(x.dtype)


def box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals from two words, float32."""
    radius = square_root(natural_log(uniform(a)) * -2.0)
    cosine, sine = cosine_and_sine_of_turn(b)
    return radius * cosine, radius * sine


KEEP_TAG = 1  # see csrc/include/pyxai_fast/philox.h


def words_in_groups(
    features: int, per_block: int, examples: Tensor, sample: Tensor | int, key: Tensor, tag: int = 0
) -> Tensor:
    """The words for every feature of every example, for one sample: [B, groups, 4, lanes].

    A group is 16 blocks of four words, for 16 * `per_block` features; of one that holds fewer than
    16 features only the first blocks, its lanes, are drawn.
    """
    lanes = min(max(features, 1), 16)
    blocks = torch.arange(-(-features // (16 * per_block)) * lanes, device=key.device)
    words = philox(counter(blocks, examples[:, None], sample, key, tag), key[0])
    return torch.stack([word.unflatten(1, (-1, lanes)) for word in words], dim=2)


def words_of_features(
    features: int, examples: Tensor, sample: Tensor | int, key: Tensor, tag: int = 0
) -> Tensor:
    """One word for every feature of every example, [B, features], for one sample.

    Feature f has word (f / 16) % 4 of block f / 64 * 16 + f % 16.
    """
    words = words_in_groups(features, 4, examples, sample, key, tag)
    return words.flatten(1)[:, :features]


def normals_of_features(
    features: int, examples: Tensor, sample: Tensor | int, key: Tensor, tag: int = 0
) -> Tensor:
    """One standard normal for every feature of every example, float32 [B, features]."""
    words = words_in_groups(features, 4, examples, sample, key, tag).unflatten(2, (2, 2))
    normals = box_muller(words[:, :, :, 0], words[:, :, :, 1])
    return torch.stack(normals, dim=3).flatten(1)[:, :features]
