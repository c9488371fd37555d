"""Reuse of freed memory."""

import ctypes
import platform


def keep_freed_memory(keep: bool = True) -> None:
    """Tell glibc to keep large freed blocks for the next step: up to 2 GiB, in this whole process.

    By default it returns each to the system and pays for a page fault on every page when it is next needed: more than
    half of a training step's time on the CPU, a quarter of an encoding's. With `keep=False` it does so again, and
    returns what was kept.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3
        # else the largest values that glibc's own adaptation reaches
        libc.mallopt(mmap_threshold, 1 << 30 if keep else 1 << 25)
        libc.mallopt(trim_threshold, (1 << 31) - 1 if keep else 1 << 26)
        if not keep:
            libc.malloc_trim(0)
