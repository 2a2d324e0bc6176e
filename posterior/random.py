"""Random numbers: one stream per (seed, image id, sample, purpose), the same on every device, and nothing else.

A draw therefore never depends on batch size, order, ranks, resume, hardware, or on what else was drawn. Numbers are
counter-based: Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011),
one expression for all rows.

Layout, version 2. Key (k0, k1): low and high half of the first 8 bytes, little endian, of BLAKE2b of the text
``seed/id/sample/purpose``. Counter (c0, c1, c2, c3): c0 and c1 are the low and high half of a block's number, c2 and c3
of the draw's, counted from 0 for each purpose. Block b gives the numbers 4 b to 4 b + 3 of a draw, in row-major order
of its shape; normals come in pairs from words in pairs (Box and Muller 1958), the cosine first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from posterior import waits
from posterior.checks import whole

VERSION = 2
"""Of the numbers: a run that was begun with others is not gone on with."""
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF
WITHOUT_FLOAT64 = {"mps"}
"""Types of device."""


def key_of(seed: int, image_id: str, sample: int, purpose: str) -> int:
    """64 bits that stand for a stream's name."""
    text = f"{seed}/{image_id}/{sample}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def stream(seed: int, image_id: str, sample: int, purpose: str) -> torch.Generator:
    """A CPU generator of torch's own for what is drawn once an image: an operator's parameters, an order.

    Args:
        seed: the run's seed.
        image_id: relative path of the image without extension.
        sample: number of the sample (chain), from 0; measurements use -1.
        purpose: what the numbers are for, e.g. ``"operator"``.
    """
    return torch.Generator().manual_seed(key_of(seed, image_id, sample, purpose) >> 1)


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10 of 32-bit words in int64 tensors, which are broadcast against each other.

    Args:
        counter: c0 to c3.
        key: k0 and k1.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # modulo 2^64: two's complement has the same bits
        c0, c1, c2, c3 = ((p1 >> 32) & WORD) ^ c1 ^ k0, p1 & WORD, ((p0 >> 32) & WORD) ^ c3 ^ k1, p0 & WORD
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return c0, c1, c2, c3


def philox_numpy(counter: Sequence[np.ndarray], key: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The same in uint64 arrays: on a CPU, where small tensors take longer to handle than to compute."""
    word, half = np.uint64(WORD), np.uint64(32)
    m0, m1, w0, w1 = (np.uint64(value) for value in (*MULTIPLIERS, *WEYL))
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & word, (p0 >> half) ^ c3 ^ k1, p0 & word
        k0, k1 = (k0 + w0) & word, (k1 + w1) & word
    return c0, c1, c2, c3


def words(keys: Tensor, draw: int, count: int) -> Tensor:
    """The first ``count`` words of a draw, (rows, count) int64 in [0, 2^32), where the keys are.

    Args:
        keys: (rows, 2) int64, the halves of each row's key.
        draw: its number, >= 0.
        count: words a row.
    """
    if keys.device.type == "cpu":
        return _words_numpy(keys.numpy().astype(np.uint64), draw, count)
    number = torch.arange(-(-count // 4), device=keys.device)[None]
    low, high = torch.full_like(number[:, :1], draw & WORD), torch.full_like(number[:, :1], draw >> 32)
    found = philox((number & WORD, number >> 32, low, high), (keys[:, :1], keys[:, 1:]))
    return torch.stack(torch.broadcast_tensors(*found), dim=-1).flatten(1)[:, :count]


def _words_numpy(keys: np.ndarray, draw: int, count: int) -> Tensor:
    number = np.arange(-(-count // 4), dtype=np.uint64)[None]
    low, high = (np.full((1, 1), half, dtype=np.uint64) for half in (draw & WORD, draw >> 32))
    found = philox_numpy((number & np.uint64(WORD), number >> np.uint64(32), low, high), (keys[:, :1], keys[:, 1:]))
    out = np.empty((len(keys), number.shape[1], 4), dtype=np.int64)
    for place, word in enumerate(found):
        out[..., place] = word
    return torch.from_numpy(out.reshape(len(keys), -1)[:, :count])


def uniforms(bits: Tensor) -> Tensor:
    """Numbers in (0, 1], float32, exact: multiples of 2^-24 from the 24 high bits of each word."""
    return ((bits >> 8) + 1).float() * 2.0**-24


def normals(bits: Tensor, wide: bool = True) -> Tensor:
    """Standard normal numbers, float32, from words (rows, 2 n): Box and Muller's pairs, rounded once.

    Args:
        bits: the words, from which u in (0, 1] is (word + 1) / 2^32.
        wide: compute in float64; within 1 ulp of the exact value, on every device. Otherwise in float32, arranged so
            that nothing cancels: within 4 ulp.
    """
    pairs = bits.reshape(len(bits), -1, 2)
    if wide:
        radius, angle = (pairs[..., place].double().add_(1) for place in (0, 1))
        radius.mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle.mul_(2 * math.pi * 2.0**-32)
        found = torch.empty(pairs.shape, dtype=torch.float32, device=bits.device)
        found[..., 0] = angle.cos().mul_(radius)
        found[..., 1] = angle.sin_().mul_(radius)
        return found.flatten(1)
    first, second = pairs[..., 0] + 1, pairs[..., 1] + 1
    near_one = torch.log1p((first - 2**32).float() * 2.0**-32)
    log = torch.where(first > 2**31, near_one, (first.float() * 2.0**-32).log())
    radius = (-2 * log).sqrt()
    quarter = (second + 2**29) >> 30  # the angle as a quarter turn and what is left, at most an eighth
    angle = (second - (quarter << 30)).float() * (2 * math.pi * 2.0**-32)
    cos, sin = angle.cos(), angle.sin()
    odd = (quarter & 1).bool()
    x, y = torch.where(odd, -sin, cos), torch.where(odd, cos, sin)
    sign = 1 - (quarter & 2).float()
    return torch.stack((radius * sign * x, radius * sign * y), dim=-1).flatten(1)


class Streams:
    """The streams of a batch of chains. Row ``k * len(ids) + b`` is sample ``k`` of image ``b``.

    Args:
        seed: the run's seed.
        ids: image ids, one per image.
        num_samples: chains per image.
        device: where numbers are made; they are the same everywhere (`normals` says how nearly).
        samples: the chains' numbers >= 0, in place of 0 .. num_samples - 1; -1 is that of measurements.

    Raises:
        UserError: if the seed has more than 64 bits, or a sample's number is out of range.
    """

    def __init__(
        self,
        seed: int,
        ids: Sequence[str],
        num_samples: int = 1,
        device: torch.device | str = "cpu",
        samples: Sequence[int] | None = None,
    ) -> None:
        numbers = range(num_samples) if samples is None else samples
        whole("Streams", "seed", seed, -(2**63), 2**64 - 1)
        for number in numbers:
            whole("Streams", "sample", number, -1, 2**63)
        self.seed = seed
        self.rows = [(image_id, sample) for sample in numbers for image_id in ids]
        self.device = torch.device(device)
        self.position: dict[str, int] = {}
        """Purpose -> how many draws were made: all that there is of a state."""
        self._keys: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def _words(self, purpose: str, count: int) -> Tensor:
        """The words of the next draw of every row, (rows, count)."""
        if purpose not in self._keys:
            keys = [key_of(self.seed, image_id, sample, purpose) for image_id, sample in self.rows]
            halves = [[key & WORD, key >> 32] for key in keys]
            keys_of_rows = torch.tensor(halves, dtype=torch.int64).view(-1, 2)
            self._keys[purpose] = waits.to_device("random keys", keys_of_rows, self.device)
        return words(self._keys[purpose], self._next(purpose), count)

    def _next(self, purpose: str) -> int:
        """The number of the next draw, which is counted."""
        draw = self.position.get(purpose, 0)
        self.position[purpose] = draw + 1
        return draw

    def randn(self, purpose: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """The next standard normal numbers of every row, shape (rows, *shape); float32's values in any dtype."""
        count = math.prod(shape)
        bits = self._words(purpose, count + count % 2)
        found = normals(bits, self.device.type not in WITHOUT_FLOAT64)[:, :count]
        return found.reshape(len(self.rows), *shape).to(dtype)

    def rand_like(self, purpose: str, x: Tensor) -> Tensor:
        """The next uniform numbers in (0, 1], shaped and typed like ``x`` (rows, ...)."""
        return uniforms(self._words(purpose, x[0].numel())).view_as(x).to(x.dtype)

    def randn_like(self, purpose: str, x: Tensor) -> Tensor:
        """The next standard normal numbers, shaped and typed like ``x`` (rows, ...)."""
        return self.randn(purpose, x.shape[1:], x.dtype)
