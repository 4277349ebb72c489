// Every family of ops: a new one is a header beside this one, and a line here.
#pragma once

#include "ascend.h"
#include "dirichlet.h"
#include "ensemble.h"
#include "linear.h"
#include "mask.h"
#include "noise.h"
#include "path.h"
#include "rank.h"

namespace pyxai_fast::torch_ops {

template <typename Backend, typename Library>
void register_all_ops(Library& library) {
  register_ascend_ops<Backend>(library);
  register_dirichlet_ops<Backend>(library);
  register_ensemble_ops<Backend>(library);
  register_linear_ops<Backend>(library);
  register_mask_ops<Backend>(library);
  register_noise_ops<Backend>(library);
  register_path_ops<Backend>(library);
  register_rank_ops<Backend>(library);
}

}  // namespace pyxai_fast::torch_ops
