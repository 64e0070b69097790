"""The crc32c of a whole from those of its parts, so that no byte is read twice."""

from collections.abc import Callable
from functools import lru_cache, reduce
from operator import xor

from crc32c import crc32c


@lru_cache
def joiner(length: int) -> Callable[[int, int], int]:
    """A function (crc32c of A, crc32c of B) -> crc32c of A followed by B, for every B of `length` bytes.

    Appending zero bytes is linear over the bits of a crc (see zlib's crc32_combine), so its effect on each bit is found
    once and kept as a table for each of the four bytes.
    """
    zeros = bytes(length)
    of_nothing = crc32c(zeros)
    of_bit = [crc32c(zeros, 1 << bit) ^ of_nothing for bit in range(32)]
    tables = [
        [reduce(xor, (of_bit[8 * place + bit] for bit in range(8) if byte >> bit & 1), 0) for byte in range(256)]
        for place in range(4)
    ]
    lowest, low, high, highest = tables

    def join(a: int, b: int) -> int:
        return lowest[a & 255] ^ low[a >> 8 & 255] ^ high[a >> 16 & 255] ^ highest[a >> 24] ^ b

    return join
