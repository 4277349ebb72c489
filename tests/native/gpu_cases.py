"""Calls every op once for each size, and checks the results: what GPU sanitisers watch.

compute-sanitizer --tool memcheck python tests/native/gpu_cases.py [--device cpu]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from op_calls import CALLS, FEATURES

from pyxai_fast import ops

# Between a CPU and a GPU; on one CPU bits are equal, which other tests see to.
TOLERANCE = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    device = torch.device(parser.parse_args().device)
    if (state := ops.backends()[device.type]) != "loaded":
        sys.exit(f"gpu_cases: the kernels for {device.type} are {state}")
    wrong = 0
    for name, make in CALLS.items():
        for size, features in FEATURES.items():
            results = make(features, device).run()
            with ops.native_kernels(False):
                expected = make(features, torch.device("cpu")).run()
            for result, wanted in zip(results, expected, strict=True):
                scale = wanted.abs().max().clamp(min=1e-30)
                error = float((result.cpu() - wanted).abs().max() / scale)
                if not error <= TOLERANCE:
                    wrong += 1
                    print(f"gpu_cases: {name}, {size}: off by {error:.1e}")
    print(f"gpu_cases: {len(CALLS) * len(FEATURES)} calls, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
