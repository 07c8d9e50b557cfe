// RMSNorm and rotation of one token's head, shared by queries and keys.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/segment_attention.h"

namespace streamchar::SC_ISA {

// out[d] = rotate(x / rms(x) * weight, cos_sin) * scale. Null weight: no norm; null cos_sin: no rotation.
template <int kDim>
SC_INLINE void ready_row(const float* x, const float* weight, float eps, const float* cos_sin, float scale, float* out) {
  Vec row[kDim / kLanes];
  for (int i = 0; i < kDim / kLanes; ++i) row[i] = load(x + i * kLanes);
  Vec factor = broadcast(scale);
  if (weight) {
    Vec squares = broadcast(0.0f);
    for (int i = 0; i < kDim / kLanes; ++i) squares = fma(row[i], row[i], squares);
    factor = broadcast(scale / __builtin_sqrtf(reduce_add(squares) / kDim + eps));
  }
  for (int i = 0; i < kDim / kLanes; ++i) {
    row[i] = mul(row[i], factor);
    if (weight) row[i] = mul(row[i], load(weight + i * kLanes));
    if (cos_sin) row[i] = rotate(row[i], load(cos_sin + i * kLanes));
    store(out + i * kLanes, row[i]);
  }
}

template <int kDim>
SC_INLINE void ready_token(TokenView x, const HeadNorm& norm, const float* rope, int token, int head, float scale,
                           float* out) {
  const float* weight = norm.weight ? norm.token_weight(token, kDim) : nullptr;
  const float* cos_sin = rope ? rope + int64_t{token} * kDim : nullptr;
  ready_row<kDim>(x.row(token, head), weight, norm.eps, cos_sin, scale, out);
}

}  // namespace streamchar::SC_ISA
