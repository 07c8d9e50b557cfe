// Rows of a query tile as wgmma reads it: normalised, turned by the rope and by a segment's shift, rounded once.
#pragma once

#include "kernels/cuda/hopper_layout.h"
#include "kernels/cuda/token_row.cuh"

namespace streamchar::cuda::hopper_attention {

// Rows `row` to `row + kBatch - 1` of a tile of 64, whose first is token `first_token`; one warp. What all of them read
// is under way together, but for the norm's weights where registers are few (kFrugal): many rows share those.
template <int kDim, int kBatch, bool kFrugal>
__device__ __forceinline__ void make_query_rows(const AttentionStream& stream, const Segment& segment, int head,
                                                int first_token, int row, unsigned char* tile, int lane) {
  constexpr int kPairs = kDim / 64;
  const auto token = [&](int j) { return min(first_token + row + j, stream.tokens - 1); };
  const auto store = [&](int j, int i, const Pair& x) {
    *reinterpret_cast<uint32_t*>(tile + hopper::tile_offset(64, row + j, 2 * (lane + 32 * i))) = pack_bf16(x.x, x.y);
  };
  if (segment.moved && stream.moved.data) {
    uint32_t ready[kBatch][kPairs];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
#pragma unroll
      for (int i = 0; i < kPairs; ++i) ready[j][i] = head_row(stream.moved, token(j), head)[lane + 32 * i];
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
#pragma unroll
      for (int i = 0; i < kPairs; ++i) store(j, i, unpack_bf16(ready[j][i]));
    }
    return;
  }
  uint32_t bits[kBatch][kPairs];
  Pair turn[kBatch][kPairs], weight[kBatch][kPairs], shift[kPairs];
  const auto load_weights = [&](int j) {
    const float* weights = token_weight(stream.norm, stream.norm.weight, token(j), kDim);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) weight[j][i] = pair_at(weights, lane + 32 * i);
  };
#pragma unroll
  for (int i = 0; i < kPairs; ++i) shift[i] = segment.shift ? pair_at(segment.shift, lane + 32 * i) : Pair{1.0f, 0.0f};
#pragma unroll
  for (int j = 0; j < kBatch; ++j) {
    const uint32_t* row = head_row(stream.q, token(j), head);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      bits[j][i] = row[lane + 32 * i];
      turn[j][i] = stream.rope ? pair_at(stream.rope + int64_t{token(j)} * kDim, lane + 32 * i) : Pair{1.0f, 0.0f};
    }
    if (!kFrugal && stream.norm.weight) load_weights(j);
  }
  Pair x[kBatch][kPairs];
#pragma unroll
  for (int j = 0; j < kBatch; ++j) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) x[j][i] = unpack_bf16(bits[j][i]);
  }
  if (stream.norm.weight) {
    float squares[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) squares[j] = lane_squares(x[j]);
#pragma unroll
    for (int distance = 16; distance; distance /= 2) {
#pragma unroll
      for (int j = 0; j < kBatch; ++j) squares[j] += __shfl_xor_sync(~0u, squares[j], distance);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const float inverse = rsqrtf(squares[j] / kDim + stream.norm.eps);
      if (kFrugal) load_weights(j);
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        x[j][i] = {x[j][i].x * inverse * weight[j][i].x, x[j][i].y * inverse * weight[j][i].y};
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kBatch; ++j) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) store(j, i, rotate_pair(rotate_pair(x[j][i], turn[j][i]), shift[i]));
  }
}

}  // namespace streamchar::cuda::hopper_attention
