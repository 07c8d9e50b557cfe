// What the producer and the consumers of segment_attention_sm90.cu share: tile shapes, shared memory, barriers.
#pragma once

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/hopper_layout.h"
#include "kernels/cuda/key_walk.cuh"

namespace streamchar::cuda::hopper_attention {

using hopper::kBlockColumns;
using hopper::kBlockRowBytes;

inline constexpr int kKeys = 128;  // keys per tile

using Walk = KeyWalk<kKeys>;

// How the consumers go about it, bit by bit.
//   kTurns: warpgroups issue their products one after the other, so that one's softmax meets the others' products.
//   kLazy: sums are relative to a maximum that follows the true one only where a row grows by more than 2^8.
//   kPairs: blocks come in clusters of two, which share every tile of keys and values: half of the reads from L2.
enum Way : int { kPlain = 0, kTurns = 1, kLazy = 2, kPairs = 4 };

template <int kDim, bool kNarrow>
struct Shape {
  static constexpr int kGroups = kDim == 128 || kNarrow ? 2 : 3;  // consumer warpgroups
  static constexpr int kStages = kDim == 128 ? 2 : 3;
  static constexpr int kRows = 64 * kGroups;                    // queries per tile
  static constexpr int kThreads = 128 * (kGroups + 1);

  // Shared memory, in bytes from its start. Tiles begin at multiples of 1024.
  static constexpr uint32_t kGroupTile = 64 * kDim * 2;         // one warpgroup's queries
  static constexpr uint32_t kTile = kKeys * kDim * 2;
  static constexpr uint32_t kKeyTiles = kGroups * kGroupTile;
  static constexpr uint32_t kValueTiles = kKeyTiles + kStages * kTile;
  static constexpr uint32_t kBase = kValueTiles + kStages * kTile;  // float [kRows][kDim]: queries
  static constexpr uint32_t kBarriers = kBase + kRows * kDim * 4;   // full and empty, of keys and values
  static constexpr uint32_t kBytes = kBarriers + 4 * kStages * 8;
};

struct Problem {
  CUtensorMap keys[kMaxListed];  // of bfloat16 segments
  CUtensorMap values[kMaxListed];
  SegmentAttention call;
  Split split;
};

template <int kDim, bool kNarrow, int kWay>
struct Registers {
  // One thread that issues copies needs few, a warpgroup that converts more.
  static constexpr int kProducer = kNarrow ? 88 : kDim == 64 ? 32 : kWay & kPairs ? 40 : 24;
  static constexpr int kConsumer = kNarrow ? 208 : kDim == 64 ? 160 : kWay & kPairs ? 232 : 240;
  // What the block starts with is all there is to share out: asking for more would wait for ever.
  using S = Shape<kDim, kNarrow>;
  static_assert(128 * (kProducer + S::kGroups * kConsumer) <= 65536 / S::kThreads / 8 * 8 * S::kThreads);
};

// What a work part's tile is made of: the blocks of a cluster take a share of its rows each.
template <int kWay>
inline constexpr int kTileBlocks = kWay & kPairs ? 2 : 1;
template <int kWay>
__device__ __forceinline__ int work_block() { return static_cast<int>(blockIdx.x) / kTileBlocks<kWay>; }
template <int kWay>
__device__ __forceinline__ int block_rank() { return static_cast<int>(blockIdx.x) % kTileBlocks<kWay>; }

template <int kStages>
struct Barriers {
  uint32_t first;
  __device__ uint32_t key_full(int stage) const { return first + stage * 8; }
  __device__ uint32_t key_empty(int stage) const { return first + (kStages + stage) * 8; }
  __device__ uint32_t value_full(int stage) const { return first + (2 * kStages + stage) * 8; }
  __device__ uint32_t value_empty(int stage) const { return first + (3 * kStages + stage) * 8; }
};

// Place in the ring of stages, and the parity of its phase.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace streamchar::cuda::hopper_attention
