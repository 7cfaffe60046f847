"""Random numbers that are derived from what they are for, never carried along.

A generator made from `(seed, "shuffle", level, epoch)` gives the same numbers whatever ran before it, on every machine,
so a run that was killed and started again sees the images that it would have seen.
"""

import hashlib

import torch


def derive_seed(*purpose: int | str) -> int:
    """A 63-bit seed for `purpose`, the same in every process and on every machine (unlike `hash`).

    Torch's generator for the CPU makes use of the lower 32 bits.
    """
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*purpose: int | str) -> torch.Generator:
    """A CPU generator for `purpose`: numbers are drawn on the CPU, so that every device sees the same ones."""
    return torch.Generator().manual_seed(derive_seed(*purpose))
