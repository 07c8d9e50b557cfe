// bfloat16 as bits.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace streamchar {

// Nearest, ties to even; NaN stays NaN.
SC_HOST_DEVICE uint32_t to_bf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
  return (bits & 0x7FFFFFFFu) > 0x7F800000u ? bits >> 16 | 0x40u : rounded;
}

SC_HOST_DEVICE float from_bf16(uint32_t bf16) {
  const uint32_t bits = bf16 << 16;
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

}  // namespace streamchar
