"""The CPU kernels for NumPy arrays, without torch: importing this imports no torch either.

The functions have the names and arguments of `pyxai_fast.ops`, run the same kernels and give the
same bits. What differs: there are no derivatives; new arrays are C-contiguous; `n_threads` is an
argument of each call (1 by default) and changes no bit. The GIL is released while a kernel runs.

Arrays are float16, float32, float64, or bfloat16 of the package ml_dtypes. Nothing is copied that
is aligned, in native byte order, and contiguous (C order, or with the strides of torch's
channels_last) in the order of what is written; anything else that is read is first copied into
that order. What is written is never copied: `out` and `total` must be writeable and contiguous in
either order, or it is an error.
"""

from .library import available_cpu_isas, build_info, cpu_isa, set_cpu_isa
from .path import path_accumulate, path_points

__all__ = [
    "available_cpu_isas",
    "build_info",
    "cpu_isa",
    "path_accumulate",
    "path_points",
    "set_cpu_isa",
]
