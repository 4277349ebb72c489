// Stands in for CUDA's header of this name. The kernels know halves as bits, and convert them with
// the functions of pyxai_fast/dtype.h, which on a CPU need nothing from here.
#pragma once

#include "cuda_runtime.h"
