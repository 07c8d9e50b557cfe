// RMSNorm and rotation of one token's head by one warp.
#pragma once

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda_calls.h"
#include "kernels/rotation.h"

namespace streamchar::cuda {

__device__ __forceinline__ const float* token_weight(const HeadNorm& norm, int token, int head_dim) {
  int group = 0;
#pragma unroll
  for (int g = 1; g < kMaxGroups; ++g) group += g < norm.groups && token >= norm.bounds[g];
  return norm.weight + group * head_dim;
}

__device__ __forceinline__ const uint32_t* head_row(const TokenView& view, int token, int head) {
  return reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(view.data) + token * view.token_stride +
                                           head * view.head_stride);
}

// Channel pairs `lane + 32 * i` of the row, normalised and turned by the rope.
template <int kDim>
__device__ __forceinline__ void base_row(const TokenView& view, const HeadNorm& norm, const float* rope, int token,
                                         int head, int lane, Pair (&x)[kDim / 64]) {
  constexpr int kPairs = kDim / 64;
  const uint32_t* row = head_row(view, token, head);
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const uint32_t bits = row[lane + 32 * i];
    x[i] = {__uint_as_float(bits << 16), __uint_as_float(bits & 0xFFFF0000u)};
    squares += x[i].x * x[i].x + x[i].y * x[i].y;
  }
#pragma unroll
  for (int distance = 16; distance; distance /= 2) squares += __shfl_xor_sync(~0u, squares, distance);
  const float inverse = rsqrtf(squares / kDim + norm.eps);
  const auto* weight = reinterpret_cast<const Pair*>(token_weight(norm, token, kDim));
  const auto* turn = reinterpret_cast<const Pair*>(rope) + int64_t{token} * (kDim / 2);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int pair = lane + 32 * i;
    x[i] = rotate_pair({x[i].x * inverse * weight[pair].x, x[i].y * inverse * weight[pair].y}, turn[pair]);
  }
}

// The same pairs packed, turned once more by `shift` if it is given.
template <int kDim>
__device__ __forceinline__ void ready_row(const TokenView& view, const HeadNorm& norm, const float* rope,
                                          const float* shift, int token, int head, int lane,
                                          uint32_t (&packed)[kDim / 64]) {
  Pair x[kDim / 64];
  base_row<kDim>(view, norm, rope, token, head, lane, x);
#pragma unroll
  for (int i = 0; i < kDim / 64; ++i) {
    if (shift) x[i] = rotate_pair(x[i], reinterpret_cast<const Pair*>(shift)[lane + 32 * i]);
    packed[i] = pack_bf16(x[i].x, x[i].y);
  }
}

}  // namespace streamchar::cuda
