"""Compiled programs, of which a process can hold so many only."""

import gc
from pathlib import Path

import jax

# Linux lets a process map 65,530 pieces of memory; a compiled program takes several.
MOST_MAPS = 40_000
_MAPS = Path("/proc/self/maps")


def forget_programs(most: int = MOST_MAPS) -> None:
    """Drops compiled programs once there are so many that compiling would soon fail.

    Args:
      most: pieces of mapped memory that are left alone.
    """
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > most:
        jax.clear_caches()
        gc.collect()
