// adaln_modulate and gated_residual of one row, for the instruction set of this translation unit.
#pragma once

#include "kernels/adaln_modulate.h"
#include "kernels/cpu/simd.h"
#include "kernels/gated_residual.h"

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

SC_INLINE void adaln_row_any(const AdalnModulate& call, int batch, int token) {
  const float* x = call.x.row(batch, token);
  const float* shift = call.shift.row(batch, token);
  const float* scale = call.scale.row(batch, token);
  float* out = call.out + (int64_t{batch} * call.tokens + token) * call.width;
  const Normalisation n = normalisation(x, call.width, call.eps);
  const int whole = call.width - call.width % kLanes;
  for (int d = 0; d < whole; d += kLanes) {
    const Vec normal = mul(sub(load(x + d), broadcast(n.mean)), broadcast(n.factor));
    store(out + d, fma(normal, add(load(scale + d), broadcast(1.0f)), load(shift + d)));
  }
  for (int d = whole; d < call.width; ++d) out[d] = (x[d] - n.mean) * n.factor * (1.0f + scale[d]) + shift[d];
}

SC_INLINE void gated_row_any(const GatedResidual& call, int batch, int token) {
  const float* x = call.x.row(batch, token);
  const float* gate = call.gate.row(batch, token);
  const float* update = call.update.row(batch, token);
  float* out = call.out + (int64_t{batch} * call.tokens + token) * call.width;
  const int whole = call.width - call.width % kLanes;
  for (int d = 0; d < whole; d += kLanes) store(out + d, fma(load(gate + d), load(update + d), load(x + d)));
  for (int d = whole; d < call.width; ++d) out[d] = x[d] + gate[d] * update[d];
}

}  // namespace streamchar::SC_ISA
