// A consumer warpgroup of segment_attention_sm90.cu: queries, products, softmax, results.
#pragma once

#include "kernels/cuda/hopper_attention.cuh"
#include "kernels/cuda/token_row.cuh"

namespace streamchar::cuda::hopper_attention {

// Sums are relative to a maximum that follows the true one only where a row grows by more than this, to base 2.
inline constexpr float kLazyGrowth = 8.0f;

// One consumer warpgroup's state: 64 rows, of which a thread has two, and their running softmax.
template <int kDim, bool kNarrow>
struct Consumer {
  using S = Shape<kDim, kNarrow>;
  static constexpr int kLogits = kKeys / 2;   // of a thread

  const Problem& problem;
  unsigned char* memory;  // shared memory's start, and its address for the asynchronous units
  uint32_t shared;
  int group;              // 0 to kGroups - 1
  int thread;             // 0 to 127
  float scale;            // of logits, to base 2
  Ring<S::kStages> key;
  Ring<S::kStages> value;

  const AttentionStream* stream;
  int head;
  int first_row;          // token of the warpgroup's first row
  float unit;             // what the sums are multiples of: the range of narrow values, per step
  float logits[kLogits];
  AttentionRows<kDim> rows;
  uint32_t weights[kKeys / 16][4];
  float factor[2];

  __device__ __forceinline__ Barriers<S> barriers() const { return {shared + S::kBarriers}; }
  __device__ __forceinline__ int lane() const { return thread & 31; }
  __device__ __forceinline__ Pair* base(int row) const {
    return reinterpret_cast<Pair*>(memory + S::kBase) + (group * 64 + row) * (kDim / 2);
  }
  // One arrival per warp.
  __device__ __forceinline__ void release(uint32_t barrier) const {
    if (lane() == 0) barrier_arrive(barrier);
  }

  __device__ __forceinline__ void begin(const WorkPart& part) {
    stream = &problem.call.streams[part.stream];
    head = part.head;
    first_row = part.query_block * S::kRows + group * 64;
    unit = 1.0f;
    rows.clear();
    make_base();
  }

  // The part's queries, normalised and rotated, in float32.
  __device__ __forceinline__ void make_base() {
    constexpr int kBatch = kDim == 64 ? 16 : 8;   // rows that are under way together
#pragma unroll 1
    for (int r = 0; r < 16; r += kBatch) {
      const int row = thread / 32 * 16 + r;
      QueryRow<kDim> query[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        query[j].load(*stream, min(first_row + row + j, stream->tokens - 1), head, lane());
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        Pair x[kDim / 64];
        query[j].ready(*stream, x);
#pragma unroll
        for (int i = 0; i < kDim / 64; ++i) base(row + j)[lane() + 32 * i] = x[i];
      }
    }
  }

  // The queries of a segment, into the warpgroup's tile. All of this warp's products must be done. Returns what the
  // sums so far are to be multiplied by.
  __device__ __forceinline__ float make_queries(const Segment& segment) {
    const bool moved = segment.moved && stream->moved.data;
    const float* shift = moved ? nullptr : segment.shift;
    Pair turn[kDim / 64];
#pragma unroll
    for (int i = 0; i < kDim / 64; ++i) turn[i] = shift ? pair_at(shift, lane() + 32 * i) : Pair{1.0f, 0.0f};
    group_sync(1 + group);  // the other warps' products too
    float ratio = 1.0f;
    if constexpr (kNarrow) {
      const KvStorage storage = problem.call.storage;
      const float key_unit = from_storage_factor(storage, segment.key_range[head]);
      const float value_unit = from_storage_factor(storage, segment.value_range[head]);
#pragma unroll
      for (int i = 0; i < kDim / 64; ++i) turn[i] = {turn[i].x * key_unit, turn[i].y * key_unit};
      ratio = unit / value_unit;
      unit = value_unit;
    }
#pragma unroll 4
    for (int r = 0; r < 16; ++r) {
      const int row = thread / 32 * 16 + r;
      const uint32_t* ready =
          moved ? head_row(stream->moved, min(first_row + row, stream->tokens - 1), head) : nullptr;
#pragma unroll
      for (int i = 0; i < kDim / 64; ++i) {
        const int pair = lane() + 32 * i;
        const Pair x = rotate_pair(moved ? unpack_bf16(ready[pair]) : base(row)[pair], turn[i]);
        *reinterpret_cast<uint32_t*>(memory + group * S::kGroupTile + hopper::tile_offset(64, row, 2 * pair)) =
            pack<kNarrow>(x.x, x.y);
      }
    }
    publish_shared();
    group_sync(1 + group);
    return ratio;
  }

  __device__ __forceinline__ void await_keys() const { barrier_wait(barriers().key_full(key.stage), key.parity); }
  __device__ __forceinline__ void start_logits() {
    const uint64_t queries = hopper::row_operand(shared + group * S::kGroupTile);
    const uint64_t keys = hopper::row_operand(shared + S::kKeyTiles + key.stage * S::kTile);
    pin(logits);
    multiply_begin();
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      multiply_rows<kNarrow>(logits, hopper::further(queries, hopper::row_operand_step(64, k)),
                             hopper::further(keys, hopper::row_operand_step(kKeys, k)), k != 0);
    }
    multiply_commit();
  }

  // After the wait for the logits' products.
  __device__ __forceinline__ void logits_done() {
    pin(logits);
    release(barriers().key_empty(key.stage));
    key.advance();
  }

  __device__ __forceinline__ void start_values() {
    const uint64_t values = hopper::column_operand(shared + S::kValueTiles + value.stage * S::kTile, kKeys);
    barrier_wait(barriers().value_full(value.stage), value.parity);
    pin(rows.sum);
    multiply_begin();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      multiply_columns<kNarrow>(rows.sum, weights[k], hopper::further(values, hopper::column_operand_step(k)));
    }
    multiply_commit();
  }

  // ptxas moves the wait for the weighted values up to where they were started, before the softmax that is to run
  // meanwhile, unless a branch lies between that needs the softmax's results. This one is never taken, as sums of
  // weights are not negative; what it would wait for has happened.
  __device__ __forceinline__ void keep_apart() const {
    const uint32_t signs = __float_as_uint(rows.denominator[0]) & __float_as_uint(rows.denominator[1]);
    if (signs >> 31) barrier_wait(barriers().value_full(value.stage), value.parity);
  }

  // Waits for the weighted values.
  __device__ __forceinline__ void values_done() {
    multiply_wait<0>();
    pin(rows.sum);
    release(barriers().value_empty(value.stage));
    value.advance();
  }

  __device__ __forceinline__ void mask(int keys) {
    if (keys == kKeys) return;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      if (hopper::result_column(thread, i) >= keys) logits[i] = -INFINITY;
    }
  }

  // Turns the logits of `keys` keys into weights; `factor` is what earlier sums are to be multiplied by.
  __device__ __forceinline__ void softmax(int keys) {
    mask(keys);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = rows.maximum[r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(logits[4 * n + 2 * r], logits[4 * n + 2 * r + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      if (!((top - rows.maximum[r]) * scale > kLazyGrowth)) top = rows.maximum[r];
      factor[r] = exp2_fast((rows.maximum[r] - top) * scale);
      rows.maximum[r] = top;
      rows.denominator[r] *= factor[r];
      const float offset = top * scale;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 4 * n + 2 * r; e < 4 * n + 2 * r + 2; ++e) {
          logits[e] = exp2_fast(logits[e] * scale - offset);
          rows.denominator[r] += logits[e];
        }
      }
    }
  }

  // Multiplies the sums by `factor`, where that is not 1 for all rows of the warp.
  __device__ __forceinline__ void rescale() {
    if (__any_sync(~0u, factor[0] != 1.0f || factor[1] != 1.0f)) rows.multiply(factor);
  }

  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[k][i] = pack<kNarrow>(logits[8 * k + 2 * i], logits[8 * k + 2 * i + 1]);
    }
  }

  __device__ __forceinline__ void attend(Walk& walk) {
    if (walk.tiles == 0) return;
    make_queries(walk.segment());
    await_keys();
    start_logits();
    multiply_wait<0>();
    logits_done();
    softmax(walk.at.keys);
    pack_weights();
#pragma unroll 1
    for (int i = 1; i < walk.tiles; ++i) {
      walk.advance();
      float ratio = 1.0f;
      if (walk.at.starts_segment()) ratio = make_queries(walk.segment());
      await_keys();
      start_logits();
      start_values();
      multiply_wait<1>();  // the logits
      logits_done();
      softmax(walk.at.keys);
      keep_apart();
      values_done();
      pack_weights();
      if constexpr (kNarrow) {
        factor[0] *= ratio;
        factor[1] *= ratio;
      }
      rescale();
    }
    start_values();
    values_done();
  }

  __device__ __forceinline__ void finish(const WorkPart& part) {
    const int warp = group * 4 + thread / 32;
    rows.finish(kNarrow ? unit : 1.0f);
    if (part.split()) {
      constexpr PartialLayout kLayout{S::kGroups * 4, kDim};
      constexpr int kTogether = kDim == 64 ? 2 : 1;
      void* const workspace = problem.call.workspace;
      if (!rows.template merge<kTogether>(workspace, kLayout, part, warp, lane(), scale)) return;
    }
    rows.store(*stream, head, first_row + thread / 32 * 16, lane(), scale);
  }
};

}  // namespace streamchar::cuda::hopper_attention
