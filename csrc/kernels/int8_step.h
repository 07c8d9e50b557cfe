// The step that int8 keys and values count. Host arithmetic, the same on every instruction set.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace streamchar {

// A number is stored as round(x / step), -127 to 127. The step is the largest magnitude / 127, rounded up to 16 binary
// digits: so every multiple of it is an exact float32, and what was stored once is stored as the same bytes again. Zero
// where all numbers are, NaN where one is not finite.
SC_HOST_DEVICE float int8_step(uint32_t largest_bits) {
  const uint32_t finite = largest_bits < 0x7F800000u ? largest_bits : 0x7F000000u;
  float largest;
  __builtin_memcpy(&largest, &finite, sizeof largest);
  const float exact = largest < 1e-30f ? 0.0f : largest / 127.0f;  // so that the inverse is finite
  uint32_t bits;
  __builtin_memcpy(&bits, &exact, sizeof bits);
  bits = (bits + 0xFFu) & ~0xFFu;
  bits = largest_bits < 0x7F800000u ? bits : 0x7FC00000u;
  float step;
  __builtin_memcpy(&step, &bits, sizeof step);
  return step;
}

SC_HOST_DEVICE float int8_inverse(float step) { return step > 0.0f ? 1.0f / step : 0.0f; }

// round(x * inverse), to nearest even, for products below 2^22.
SC_HOST_DEVICE uint32_t int8_number(float x, float inverse) {
  const float shifted = x * inverse + 12582912.0f;  // 1.5 * 2^23: the spacing of floats is 1
  uint32_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  return bits - 0x4B400000u;
}

}  // namespace streamchar
