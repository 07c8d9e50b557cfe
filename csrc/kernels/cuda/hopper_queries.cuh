// Rows of a query tile as wgmma reads it: normalised, turned by the rope and by a segment's shift, rounded once.
#pragma once

#include "kernels/cuda/hopper_layout.h"
#include "kernels/cuda/token_row.cuh"

namespace streamchar::cuda::hopper_attention {

// Rows `row` to `row + kBatch - 1` of a tile of 64, whose first is token `first_token`; one warp. What all of them read
// is under way together.
template <int kDim, int kBatch>
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
  Pair turn[kPairs];
  QueryRow<kDim> query[kBatch];
#pragma unroll
  for (int i = 0; i < kPairs; ++i) turn[i] = segment.shift ? pair_at(segment.shift, lane + 32 * i) : Pair{1.0f, 0.0f};
#pragma unroll
  for (int j = 0; j < kBatch; ++j) query[j].load(stream, token(j), head, lane);
#pragma unroll
  for (int j = 0; j < kBatch; ++j) {
    Pair x[kPairs];
    query[j].ready(stream, x);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) store(j, i, rotate_pair(x[i], turn[i]));
  }
}

}  // namespace streamchar::cuda::hopper_attention
