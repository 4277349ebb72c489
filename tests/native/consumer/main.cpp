// Three points on the paths from one baseline to two inputs, and what they add up to.
#include <pyxai_fast/cpu_isa.h>
#include <pyxai_fast/path.h>

#include <cstdio>

int main() {
  const float inputs[2][3] = {{1, 2, 3}, {4, 5, 6}}, baseline = 0.5f;
  const double alphas[] = {0, 0.5, 1};
  float points[3][2][3];
  pyxai_fast::PathPoints args{};
  args.inputs = inputs, args.baselines = &baseline, args.alphas = alphas, args.points = points;
  args.steps = 3, args.batch = 2, args.features = 3;
  args.baseline_strides = {0, 0}, args.alpha_strides = {1, 0}, args.channels = {1, 1};
  args.dtype = args.point_dtype = pyxai_fast::DType::kFloat32;
  const pyxai_fast::Work work = pyxai_fast::work_of(args);
  pyxai_fast::run_cpu(args, 0, work.units);  // or cut [0, units) into threads
  for (const auto& step : points) {
    for (const auto& point : step) std::printf("%g %g %g ", point[0], point[1], point[2]);
  }
  std::printf("\n%s\n", pyxai_fast::cpu_isa());
}
