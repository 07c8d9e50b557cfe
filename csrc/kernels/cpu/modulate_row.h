// Layer norm, shift and scale of one row, and RMSNorm, for the instruction set of this translation unit.
#pragma once

#include "kernels/cpu/simd.h"

namespace streamchar::SC_ISA {

// normal = (x - mean) * factor
struct Normalisation {
  float factor;
  float mean;
};

// What `add_to(d, sum)` makes of zero for every vector d of the first `whole` channels, in four sums side by side: one
// alone would wait for its own additions.
template <typename AddTo>
SC_INLINE float sum_of(int whole, const AddTo& add_to) {
  Vec sums[4] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
  int d = 0;
  for (; d + 4 * kLanes <= whole; d += 4 * kLanes) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[i] = add_to(d + i * kLanes, sums[i]);
  }
  for (; d < whole; d += kLanes) sums[0] = add_to(d, sums[0]);
  return reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

// Two passes, so that a mean far from zero costs no digits.
SC_INLINE Normalisation normalisation(const float* x, int width, float eps) {
  const int whole = width - width % kLanes;
  float sum = sum_of(whole, [&](int d, Vec sum) __attribute__((always_inline)) { return add(sum, load(x + d)); });
  for (int d = whole; d < width; ++d) sum += x[d];
  const float mean = sum / width;

  float squares = sum_of(whole, [&](int d, Vec sum) __attribute__((always_inline)) {
    const Vec centred = sub(load(x + d), broadcast(mean));
    return fma(centred, centred, sum);
  });
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

// out[d] = x[d] / rms(x) * weight[d]; out may be x.
SC_INLINE void rms_norm_row(const float* x, const float* weight, int width, float eps, float* out) {
  const int whole = width - width % kLanes;
  float squares = sum_of(whole, [&](int d, Vec sum) __attribute__((always_inline)) {
    const Vec values = load(x + d);
    return fma(values, values, sum);
  });
  for (int d = whole; d < width; ++d) squares += x[d] * x[d];
  const float factor = 1.0f / __builtin_sqrtf(squares / width + eps);
  for (int d = 0; d < whole; d += kLanes) store(out + d, mul(mul(load(x + d), broadcast(factor)), load(weight + d)));
  for (int d = whole; d < width; ++d) out[d] = x[d] * factor * weight[d];
}

}  // namespace streamchar::SC_ISA
