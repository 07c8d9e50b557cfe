// The producer warpgroup of segment_attention_sm90.cu: fetches tiles of keys and values, or makes them of narrow ones.
#pragma once

#include "kernels/cuda/hopper_attention.cuh"
#include "kernels/cuda/narrow.cuh"

namespace streamchar::cuda::hopper_attention {

template <int kDim>
__device__ __forceinline__ void fetch_tile(uint32_t target, const CUtensorMap* map, uint32_t barrier, int row,
                                           int head) {
  barrier_expect(barrier, Shape<kDim, false>::kTile);
#pragma unroll
  for (int b = 0; b < kDim / kBlockColumns; ++b) {
    copy_box(target + b * kKeys * kBlockRowBytes, map, barrier, b * kBlockColumns, row, head);
  }
}

// Fetches bfloat16 tiles; one thread.
template <int kDim>
__device__ __forceinline__ void fetch_all(const Problem& problem, uint32_t shared) {
  using S = Shape<kDim, false>;
  const Barriers<S> barriers{shared + S::kBarriers};
  Ring<S::kStages> key;
  Ring<S::kStages> value;
  const uint32_t end = problem.split.start(blockIdx.x + 1);
#pragma unroll 1
  for (uint32_t unit = problem.split.start(blockIdx.x); unit < end;) {
    const WorkPart part = problem.split.part(blockIdx.x, unit);
    unit += part.end - part.begin;
    Walk walk(problem.call, part);
#pragma unroll 1
    for (int i = 0; i < walk.tiles; ++i) {
      // A barrier that has not been used yet lets parity 1 pass.
      barrier_wait(barriers.key_empty(key.stage), key.parity ^ 1);
      fetch_tile<kDim>(shared + S::kKeyTiles + key.stage * S::kTile, &problem.keys[walk.listed()],
                             barriers.key_full(key.stage), walk.at.first, part.head);
      barrier_wait(barriers.value_empty(value.stage), value.parity ^ 1);
      fetch_tile<kDim>(shared + S::kValueTiles + value.stage * S::kTile, &problem.values[walk.listed()],
                             barriers.value_full(value.stage), walk.at.first, part.head);
      key.advance();
      value.advance();
      walk.advance();
    }
  }
}

// A narrow tile on its way through the registers of the producer warpgroup. A thread has one 16-byte piece of every
// kStep-th row.
template <int kDim>
struct NarrowTile {
  static constexpr int kPieces = kDim / 16;
  static constexpr int kStep = 128 / kPieces;  // a multiple of eight: the swizzle of a thread's rows is the same
  static constexpr int kLoads = kKeys / kStep;
  uint4 piece[kLoads];

  __device__ __forceinline__ void load(const TokenView& view, int head, const TileCursor<kKeys>& at) {
    int left = at.keys - static_cast<int>(threadIdx.x) / kPieces;
    const auto* source = static_cast<const unsigned char*>(view.data) + head * view.head_stride +
                         (at.first + threadIdx.x / kPieces) * view.token_stride + threadIdx.x % kPieces * 16;
    const int64_t step = kStep * view.token_stride;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      piece[i] = make_uint4(0, 0, 0, 0);
      if (left > i * kStep) piece[i] = __ldg(reinterpret_cast<const uint4*>(source));
      source += step;
    }
  }

  template <bool kFloat8>
  __device__ __forceinline__ void store(unsigned char* tile) const {
    const int row = threadIdx.x / kPieces, column = threadIdx.x % kPieces * 16;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      // Threads of the upper 64 channels begin with their second half: the eight of a row meet eight different banks.
      const bool high = j != column / kBlockColumns;
      unsigned char* to = tile + hopper::tile_offset(kKeys, row, column + high * 8);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        *reinterpret_cast<uint4*>(to + i * kStep * kBlockRowBytes) =
            narrow_to_f16<kFloat8>(high ? piece[i].z : piece[i].x, high ? piece[i].w : piece[i].y);
      }
    }
  }
};

// Makes float16 tiles of narrow ones; the whole producer warpgroup.
template <int kDim, bool kFloat8>
__device__ __forceinline__ void convert_all(const Problem& problem, unsigned char* memory, uint32_t shared) {
  using S = Shape<kDim, true>;
  const Barriers<S> barriers{shared + S::kBarriers};
  const auto filled = [](uint32_t barrier) {
    publish_shared();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
  };
  Ring<S::kStages> key;
  Ring<S::kStages> value;
  NarrowTile<kDim> tile;
  const uint32_t end = problem.split.start(blockIdx.x + 1);
#pragma unroll 1
  for (uint32_t unit = problem.split.start(blockIdx.x); unit < end;) {
    const WorkPart part = problem.split.part(blockIdx.x, unit);
    unit += part.end - part.begin;
    Walk walk(problem.call, part);
    if (walk.tiles) tile.load(walk.segment().key, part.head, walk.at);
#pragma unroll 1
    for (int i = 0; i < walk.tiles; ++i) {
      barrier_wait(barriers.key_empty(key.stage), key.parity ^ 1);
      tile.template store<kFloat8>(memory + S::kKeyTiles + key.stage * S::kTile);
      filled(barriers.key_full(key.stage));
      tile.load(walk.segment().value, part.head, walk.at);
      barrier_wait(barriers.value_empty(value.stage), value.parity ^ 1);
      tile.template store<kFloat8>(memory + S::kValueTiles + value.stage * S::kTile);
      filled(barriers.value_full(value.stage));
      key.advance();
      value.advance();
      walk.advance();
      if (i + 1 < walk.tiles) tile.load(walk.segment().key, part.head, walk.at);
    }
  }
}

}  // namespace streamchar::cuda::hopper_attention
