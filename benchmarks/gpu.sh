#!/usr/bin/env bash
# On a machine with a GPU: builds for it, runs the tests and the sanitisers on it, times the ops, and
# writes benchmarks/results/gpu-NAME.json and benchmarks/README.md. One command, under ten minutes,
# no network, nothing installed:
#
#   [PYTHON=python3.12] benchmarks/gpu.sh [--out FILE] [--stages build,tests,...]
#
# It needs a Python with a CUDA build of torch 2.11 or later, numpy, pytest and hypothesis; nvcc of
# torch's CUDA version (in PATH, or under CUDA_HOME); a C++ compiler and cmake.
# compute-sanitizer is used where there is one. The exit status says whether every stage passed.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { echo "gpu.sh: $*" >&2; exit 1; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || say "$python was not found; name an interpreter: PYTHON=/path/to/python3"
"$python" -c 'import torch' 2>/dev/null || say "$python has no torch; install a CUDA build of it"
"$python" -c 'import torch, sys; sys.exit(torch.version.cuda is None)' ||
  say "the torch of $python is a CPU build; install a CUDA build of it"
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
  say "torch finds no GPU here"
for module in numpy pytest hypothesis; do
  "$python" -c "import $module" 2>/dev/null || say "$python has no $module; install it"
done

export PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin"
command -v nvcc >/dev/null || say "nvcc was not found; install the CUDA toolkit, or set CUDA_HOME"
"$python" -c 'import os, shutil, sys, sysconfig
sys.exit(shutil.which("cmake", path=sysconfig.get_path("scripts") + ":" + os.environ["PATH"]) is None)' ||
  say "cmake was not found; install it"
command -v "${CXX:-c++}" >/dev/null || say "${CXX:-c++} was not found; install a C++ compiler"

exec "$python" benchmarks/gpu.py "$@"
