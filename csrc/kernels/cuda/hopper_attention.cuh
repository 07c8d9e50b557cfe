// What the producer and the consumers of segment_attention_sm90.cu share: tile shapes, shared memory, barriers.
#pragma once

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/hopper_layout.h"
#include "kernels/cuda/key_walk.cuh"

namespace streamchar::cuda::hopper_attention {

using hopper::kBlockColumns;
using hopper::kBlockRowBytes;

inline constexpr int kKeys = 128;  // per tile

using Walk = SwiftWalk<kKeys>;

template <int kDim, bool kNarrow>
struct Shape {
  static constexpr int kGroups = kDim == 128 || kNarrow ? 2 : 3;  // consumer warpgroups
  static constexpr int kStages = kDim == 128 ? 2 : 3;
  static constexpr int kRows = 64 * kGroups;                      // queries per tile
  static constexpr int kThreads = 128 * (kGroups + 1);

  // Shared memory, in bytes from its start. Tiles begin at multiples of 1024.
  static constexpr uint32_t kGroupTile = 64 * kDim * 2;           // one warpgroup's queries
  static constexpr uint32_t kTile = kKeys * kDim * 2;
  static constexpr uint32_t kKeyTiles = kGroups * kGroupTile;
  static constexpr uint32_t kValueTiles = kKeyTiles + kStages * kTile;
  static constexpr uint32_t kBase = kValueTiles + kStages * kTile;  // float [kRows][kDim]: queries
  static constexpr uint32_t kBarriers = kBase + kRows * kDim * 4;
  static constexpr uint32_t kBytes = kBarriers + 4 * kStages * 8;
  static_assert(kBytes <= 232448);
};

struct Problem {
  CUtensorMap keys[kMaxListed];  // of bfloat16 segments
  CUtensorMap values[kMaxListed];
  SegmentAttention call;
  Split split;
};

template <int kDim, bool kNarrow>
struct Registers {
  // One thread that issues copies needs few, a warpgroup that converts more.
  static constexpr int kProducer = kNarrow ? 88 : kDim == 64 ? 32 : 24;
  static constexpr int kConsumer = kNarrow ? 208 : kDim == 64 ? 160 : 240;
  // What the block starts with is all there is to share out: asking for more would wait for ever.
  using S = Shape<kDim, kNarrow>;
  static_assert(128 * (kProducer + S::kGroups * kConsumer) <= 65536 / S::kThreads / 8 * 8 * S::kThreads);
};

// `full` and `empty` of every stage.
template <typename S>
struct Barriers {
  uint32_t first;
  __device__ uint32_t key_full(int stage) const { return first + stage * 16; }
  __device__ uint32_t key_empty(int stage) const { return key_full(stage) + 8; }
  __device__ uint32_t value_full(int stage) const { return first + (S::kStages + stage) * 16; }
  __device__ uint32_t value_empty(int stage) const { return value_full(stage) + 8; }
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
