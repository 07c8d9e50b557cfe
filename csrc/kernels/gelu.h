// GELU with tanh, for host and device.
#pragma once

#include <cmath>

#include "kernels/host_device.h"

namespace streamchar {

// 0.5 x (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3), as x / (1 + exp(-2 u)): where tanh comes near -1 no
// digits are lost.
SC_HOST_DEVICE float gelu_tanh(float x) {
  constexpr float kTwiceRootLog2e = 2.3022082f;    // 2 sqrt(2 / pi) log2(e)
  constexpr float kCubicLog2e = 0.10294324f;       // 0.044715 of it
  const float power = x * (kTwiceRootLog2e + kCubicLog2e * x * x);
#if defined(__CUDA_ARCH__)
  return __fdividef(x, 1.0f + exp2f(-power));
#else
  return x / (1.0f + std::exp2(-power));
#endif
}

}  // namespace streamchar
