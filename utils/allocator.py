"""What the C library does with memory that is freed."""

import ctypes

# Numbers of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks of up to 1 GiB for this process; returns whether it does (False without glibc).

    Every batch allocates and frees the same megabytes. If they go back to the system, it hands them out anew each time,
    one page of 4 kB after another. With a single arena, blocks that one thread has freed serve the others too.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(*setting) for setting in ((M_TRIM_THRESHOLD, -1), (M_MMAP_THRESHOLD, 2**30), (M_ARENA_MAX, 1))
    )
