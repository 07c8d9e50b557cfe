// What the producer and the consumers of segment_attention_sm90.cu share: tile shapes, shared memory, barriers.
#pragma once

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/hopper_layout.h"
#include "kernels/cuda/key_walk.cuh"

namespace streamchar::cuda::hopper_attention {

using hopper::kBlockColumns;
using hopper::kBlockRowBytes;

inline constexpr int kKeys = 128;       // keys per tile
inline constexpr int kQueryWarps = 3;   // of the producer warpgroup, beside the one that fetches

using Walk = SwiftWalk<kKeys>;

// How the consumers go about it, bit by bit.
//   kTurns: warpgroups issue their products one after the other, so that one's softmax meets the others' products.
//   kLazy: sums are relative to a maximum that follows the true one only where a row grows by more than 2^8.
//   kPairs: blocks come in clusters of two, which share every tile of keys and values: half of the reads from L2.
//   kAhead: warps of the producer warpgroup make the queries of the next segment meanwhile, into a second tile; else
//     consumers make them where a segment begins, from a float32 copy of the normalised ones.
//   kSwift: no maximum is looked for as long as a tile's sums of weights, relative to the last one, stay below 2^16.
enum Way : int { kPlain = 0, kTurns = 1, kLazy = 2, kPairs = 4, kAhead = 8, kSwift = 16 };

template <int kDim, bool kNarrow, int kWay>
struct Shape {
  static constexpr bool kQueriesAhead = (kWay & kAhead) != 0;
  static constexpr int kGroups = kDim == 128 || kNarrow || kQueriesAhead ? 2 : 3;  // consumer warpgroups
  static constexpr int kQueryStages = kQueriesAhead ? 2 : 1;
  static constexpr int kKeyStages = kDim == 128 && !kQueriesAhead ? 2 : 3;
  static constexpr int kValueStages = kDim == 128 ? 2 : 3;
  static constexpr int kRows = 64 * kGroups;                    // queries per tile
  static constexpr int kThreads = 128 * (kGroups + 1);

  // Shared memory, in bytes from its start. Tiles begin at multiples of 1024.
  static constexpr uint32_t kGroupTile = 64 * kDim * 2;         // one warpgroup's queries
  static constexpr uint32_t kTile = kKeys * kDim * 2;
  static constexpr uint32_t kQueryTile = kGroups * kGroupTile;
  static constexpr uint32_t kKeyTiles = kQueryStages * kQueryTile;
  static constexpr uint32_t kValueTiles = kKeyTiles + kKeyStages * kTile;
  static constexpr uint32_t kBase = kValueTiles + kValueStages * kTile;  // float [kRows][kDim]: queries, if not ahead
  static constexpr uint32_t kBarriers = kBase + (kQueriesAhead ? 0 : kRows * kDim * 4);
  static constexpr uint32_t kBytes = kBarriers + 2 * (kKeyStages + kValueStages + kQueryStages) * 8;
  static_assert(kBytes <= 232448);
};

struct Problem {
  CUtensorMap keys[kMaxListed];  // of bfloat16 segments
  CUtensorMap values[kMaxListed];
  SegmentAttention call;
  Split split;
};

template <int kDim, bool kNarrow, int kWay>
struct Registers {
  // One thread that issues copies needs few, a warpgroup that converts or makes queries more.
  static constexpr int kProducer =
      kNarrow ? 88 : kWay & kAhead ? 56 : kDim == 64 ? 32 : kWay & kPairs ? 40 : 24;
  static constexpr int kConsumer =
      kNarrow ? 208 : kWay & kAhead ? 224 : kDim == 64 ? 160 : kWay & kPairs ? 232 : 240;
  // What the block starts with is all there is to share out: asking for more would wait for ever.
  using S = Shape<kDim, kNarrow, kWay>;
  static_assert(128 * (kProducer + S::kGroups * kConsumer) <= 65536 / S::kThreads / 8 * 8 * S::kThreads);
};

// What a work part's tile is made of: the blocks of a cluster take a share of its rows each.
template <int kWay>
inline constexpr int kTileBlocks = kWay & kPairs ? 2 : 1;
template <int kWay>
__device__ __forceinline__ int work_block() { return static_cast<int>(blockIdx.x) / kTileBlocks<kWay>; }
template <int kWay>
__device__ __forceinline__ int block_rank() { return static_cast<int>(blockIdx.x) % kTileBlocks<kWay>; }

// `full` and `empty` of every stage.
template <typename S>
struct Barriers {
  uint32_t first;
  __device__ uint32_t key_full(int stage) const { return first + stage * 16; }
  __device__ uint32_t key_empty(int stage) const { return key_full(stage) + 8; }
  __device__ uint32_t value_full(int stage) const { return first + (S::kKeyStages + stage) * 16; }
  __device__ uint32_t value_empty(int stage) const { return value_full(stage) + 8; }
  __device__ uint32_t query_full(int stage) const { return first + (S::kKeyStages + S::kValueStages + stage) * 16; }
  __device__ uint32_t query_empty(int stage) const { return query_full(stage) + 8; }
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
