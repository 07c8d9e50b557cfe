#include "networks/audible_velocity.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace streamchar {

void audible_velocity(const AudibleVelocity& call) {
  const float t = call.t, rest = 1.0f - t, total = rest * rest + t * t * call.variance;
  const float of_mean = rest / total, of_noisy = (t * call.variance - rest) / total;
  const float of_residual = std::sqrt(call.variance / total);
  std::vector<float> level(call.frames);  // of beyond
  for (int s = 0; s < call.streams; ++s) {
    const int64_t first = int64_t{s} * call.frames * call.bins;
    for (int f = 0; f < call.frames; ++f) {
      const int64_t at = first + int64_t{f} * call.bins;
      double sum = 0.0;
      for (int64_t i = at; i < at + call.bins; ++i) {
        call.out[i] = of_mean * call.mean[i] + of_noisy * call.noisy[i] + of_residual * call.residual[i];
        sum += call.noisy[i] + rest * call.out[i] - call.mean[i];
      }
      level[f] = static_cast<float>(sum / call.bins);
    }
    for (int f = 0; f < call.frames; ++f) {
      double sum = 0.0;
      for (int k = f - call.span / 2; k <= f + call.span / 2; ++k) sum += level[std::clamp(k, 0, call.frames - 1)];
      const float quieter = static_cast<float>(-sum / call.span);
      if (!(quieter > call.lost)) continue;
      const float back = (1.0f - call.lost / quieter) / rest;
      for (int64_t i = first + int64_t{f} * call.bins; i < first + int64_t{f + 1} * call.bins; ++i) {
        call.out[i] -= back * (call.noisy[i] + rest * call.out[i] - call.mean[i]);
      }
    }
  }
}

}  // namespace streamchar
