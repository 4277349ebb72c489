"""What is built, and what is used."""

from __future__ import annotations

import platform
from typing import Any

import torch

from . import ops
from .native import array_module
from .version import __version__


def info() -> dict[str, Any]:
    """Versions, backends, instruction set, threads and CUDA, as one nested dict fit for JSON."""
    cuda: dict[str, Any] = {
        "torch_cuda": torch.version.cuda,
        "available": torch.cuda.is_available(),
    }
    if cuda["available"]:
        cuda["devices"] = [
            {
                "name": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "memory_gib": round(properties.total_memory / 2**30, 1),
            }
            for properties in map(
                torch.cuda.get_device_properties, range(torch.cuda.device_count())
            )
        ]
    return {
        "pyxai_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "backends": ops.backends(),
        "arrays": "built" if array_module() else "not built",
        "build": ops.build_info(),
        "cpu": {
            "isa": ops.cpu_isa(),
            "available_isas": ops.available_cpu_isas(),
            "threads": torch.get_num_threads(),
        },
        "cuda": cuda,
    }
