"""What a run was made with: enough to repeat it, and nothing that names a machine."""

import dataclasses
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jaxmerge", "jax", "jaxlib", "numpy", "flax", "optax", "scikit-learn")


def package_versions() -> dict[str, str]:
    """Versions of what the numbers depend on; a package that is absent is left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit that the code is at, marked if there are changes; None outside git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        run = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changed else commit


def make_manifest(
    config: Any, *, durations: Mapping[str, float], **extra: Any
) -> dict[str, Any]:
    """The record that goes beside results.

    Args:
      config: the dataclass that the run was configured with; its `seed` is repeated.
      durations: seconds, by stage. They describe this run; results do not depend on
        them.
      **extra: anything else, as JSON data.
    """
    settings = dataclasses.asdict(config)
    return {
        "config": settings,
        "seed": settings.get("seed"),
        "versions": {"python": platform.python_version(), **package_versions()},
        "commit": git_commit(),
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "seconds": {name: round(value, 1) for name, value in durations.items()},
        **extra,
    }
