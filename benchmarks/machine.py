"""What the figures were measured on, and with."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pyxai_fast import ops

# What ours is compared with.
PEERS = ("captum", "lime", "quantus", "saliency", "shap", "zennit")
ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, str | int]:
    """Processor, instruction set, versions, commit and date."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 0,
        "isa": ops.cpu_isa() or "no native kernels",
        "compiler": ops.build_info().get("compiler", "unknown"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "load_before": round(os.getloadavg()[0], 2),
    } | {name: _version(name) for name in PEERS}


def cpu_name() -> str:
    """The processor's name, with what tells generations apart where the name does not."""
    fields: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    name = fields.get("model name") or platform.processor() or platform.machine()
    name = re.sub(r"\((R|TM|C)\)|\b(Processor|CPU)\b", " ", name, flags=re.IGNORECASE)
    name = " ".join(name.split())
    if re.search(r"\d", name):
        return name
    numbers = [fields[key] for key in ("cpu family", "model") if key in fields]
    return f"{name} (family {', model '.join(numbers)})" if len(numbers) == 2 else name


def short_name(name: str) -> str:
    """Fit for a file's name."""
    words = re.findall(r"[a-z0-9.]+", name.split("@")[0].lower())
    return "-".join(word for word in words if word not in ("family", "model"))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "pyxai_fast", "csrc")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
