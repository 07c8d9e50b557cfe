// Layer norm, shift and scale of one row, for the instruction set of this translation unit.
#pragma once

#include "kernels/cpu/simd.h"

namespace streamchar::SC_ISA {

// normal = (x - mean) * factor
struct Normalisation {
  float factor;
  float mean;
};

// Two passes, so that a mean far from zero costs no digits.
SC_INLINE Normalisation normalisation(const float* x, int width, float eps) {
  const int whole = width - width % kLanes;
  Vec lanes = broadcast(0.0f);
  for (int d = 0; d < whole; d += kLanes) lanes = add(lanes, load(x + d));
  float sum = reduce_add(lanes);
  for (int d = whole; d < width; ++d) sum += x[d];
  const float mean = sum / width;

  lanes = broadcast(0.0f);
  for (int d = 0; d < whole; d += kLanes) {
    const Vec centred = sub(load(x + d), broadcast(mean));
    lanes = fma(centred, centred, lanes);
  }
  float squares = reduce_add(lanes);
  for (int d = whole; d < width; ++d) squares += (x[d] - mean) * (x[d] - mean);
  const float factor = 1.0f / __builtin_sqrtf(squares / width + eps);
  return {factor, mean};
}

// out[d] = normal[d] * (1 + scale[d]) + shift[d]; out may be x.
SC_INLINE void modulate_row(const float* x, const float* shift, const float* scale, int width, float eps, float* out) {
  const Normalisation n = normalisation(x, width, eps);
  const int whole = width - width % kLanes;
  for (int d = 0; d < whole; d += kLanes) {
    const Vec normal = mul(sub(load(x + d), broadcast(n.mean)), broadcast(n.factor));
    store(out + d, fma(normal, add(load(scale + d), broadcast(1.0f)), load(shift + d)));
  }
  for (int d = whole; d < width; ++d) out[d] = (x[d] - n.mean) * n.factor * (1.0f + scale[d]) + shift[d];
}

}  // namespace streamchar::SC_ISA
