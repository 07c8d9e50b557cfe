// What chains do to single rows between their linear layers, for the instruction set of this translation unit.
#pragma once

#include "kernels/cpu/modulate_row.h"
#include "kernels/cpu/part_vectors.h"
#include "kernels/cpu/silu.h"

namespace streamchar::SC_ISA {

// Calls body(d, count) for the vectors of a row; all but the last have kLanes numbers.
template <typename Body>
SC_INLINE void for_each_vector(int width, const Body& body) {
  int d = 0;
  for (; d + kLanes <= width; d += kLanes) body(d, kLanes);
  if (d < width) body(d, width - d);
}

// out = silu(x); out may be x.
SC_INLINE void silu_row_any(const float* x, int width, float* out) {
  for_each_vector(width, [&](int d, int count) __attribute__((always_inline)) {
    store_first(out + d, silu(load_first(x + d, count)), count);
  });
}

// out = silu(gate) * up; out may be either.
SC_INLINE void swiglu_row_any(const float* gate, const float* up, int width, float* out) {
  for_each_vector(width, [&](int d, int count) __attribute__((always_inline)) {
    store_first(out + d, mul(silu(load_first(gate + d, count)), load_first(up + d, count)), count);
  });
}

SC_INLINE float dot_any(const float* a, const float* b, int width) {
  const int whole = width - width % kLanes;
  float sum = sum_of(whole, [&](int d, Vec sum) __attribute__((always_inline)) {
    return fma(load(a + d), load(b + d), sum);
  });
  for (int d = whole; d < width; ++d) sum += a[d] * b[d];
  return sum;
}

}  // namespace streamchar::SC_ISA
