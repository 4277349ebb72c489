"""Which of torch's C++ symbols a library uses: none, if it keeps to the stable (C) ABI."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

# Classes and functions of these namespaces change from one torch to the next. What the stable
# ABI's headers define lies in torch:: too, but is compiled into the library, never imported.
_UNSTABLE = re.compile(r"\b(at|c10|caffe2|torch)::")


def unstable_symbols(binary: Path) -> list[str]:
    """Demangled names that `binary`, a shared library or object file, expects torch to define."""
    dynamic = ["--dynamic"] if ".so" in binary.suffixes else []
    command = ["nm", *dynamic, "--demangle", "--undefined-only", str(binary)]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(name.strip() for name in names if _UNSTABLE.search(name))
