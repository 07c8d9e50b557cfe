// One token's head by one warp: a lane has the channel pairs `lane + 32 * i`.
#pragma once

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda_calls.h"
#include "kernels/rotation.h"

namespace streamchar::cuda {

// `width`: of a group's weights.
__device__ __forceinline__ const float* token_weight(const HeadNorm& norm, const float* weight, int token, int width) {
  int group = 0;
#pragma unroll
  for (int g = 1; g < kMaxGroups; ++g) group += g < norm.groups && token >= norm.bounds[g];
  return weight + int64_t{group} * width;
}

__device__ __forceinline__ const uint32_t* head_row(const TokenView& view, int token, int head) {
  return reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(view.data) + token * view.token_stride +
                                           head * view.head_stride);
}

__device__ __forceinline__ Pair unpack_bf16(uint32_t bits) {
  return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xFFFF0000u)};
}

// Pair `i` of a table or of weights, which begin at a multiple of eight bytes: one load.
__device__ __forceinline__ Pair pair_at(const float* table, int i) {
  const float2 pair = reinterpret_cast<const float2*>(table)[i];
  return {pair.x, pair.y};
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int distance = 16; distance; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
  return x;
}

template <int kPairs>
__device__ __forceinline__ float lane_squares(const Pair (&x)[kPairs]) {
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) squares += x[i].x * x[i].x + x[i].y * x[i].y;
  return squares;
}

// Scales the row by `inverse` and the weights.
template <int kPairs>
__device__ __forceinline__ void scale_row(Pair (&x)[kPairs], float inverse, const float* weight, int lane) {
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const Pair w = pair_at(weight, lane + 32 * i);
    x[i] = {x[i].x * inverse * w.x, x[i].y * inverse * w.y};
  }
}

// Turns the row by a table of cosines and sines, (head_dim / 2, 2).
template <int kPairs>
__device__ __forceinline__ void turn_row(Pair (&x)[kPairs], const float* table, int lane) {
#pragma unroll
  for (int i = 0; i < kPairs; ++i) x[i] = rotate_pair(x[i], pair_at(table, lane + 32 * i));
}

// A stream's query, normalised and turned by the rope, as far as it does not come so.
template <int kDim>
__device__ __forceinline__ void base_row(const AttentionStream& stream, int token, int head, int lane,
                                         Pair (&x)[kDim / 64]) {
  const uint32_t* row = head_row(stream.q, token, head);
#pragma unroll
  for (int i = 0; i < kDim / 64; ++i) x[i] = unpack_bf16(row[lane + 32 * i]);
  if (stream.norm.weight) {
    scale_row(x, rsqrtf(warp_sum(lane_squares(x)) / kDim + stream.norm.eps),
              token_weight(stream.norm, stream.norm.weight, token, kDim), lane);
  }
  if (stream.rope) turn_row(x, stream.rope + int64_t{token} * kDim, lane);
}

}  // namespace streamchar::cuda
