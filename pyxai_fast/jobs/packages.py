"""The packages that jobs need besides those that everything needs."""

from __future__ import annotations

import importlib.util

from ..models.errors import MissingDependency

_NEEDED = {"pyarrow": "pyarrow", "safetensors": "safetensors", "PIL": "pillow"}


def check_packages() -> None:
    """Refuses to begin what could not be finished.

    Raises:
        MissingDependency: naming what to install.
    """
    missing = [name for module, name in _NEEDED.items() if not importlib.util.find_spec(module)]
    if missing:
        raise MissingDependency(
            f"jobs: {', '.join(missing)} must be installed; run: pip install pyxai-fast[jobs]"
        )
