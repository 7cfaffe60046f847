"""What the C library does with memory that is freed."""

import ctypes

# Numbers of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, up to 1 GiB apiece, for this process; returns whether it does. Others do as ever.

    Every batch takes and frees the same megabytes. Given back, they come anew from the system each time, one page of
    4 kB after another as it is touched. In one pool of memory, what one thread has freed is there for the next.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(*setting) for setting in ((M_TRIM_THRESHOLD, -1), (M_MMAP_THRESHOLD, 2**30), (M_ARENA_MAX, 1))
    )
