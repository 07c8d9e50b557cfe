// A consumer warpgroup of segment_attention_sm90.cu: queries, products, softmax, results.
#pragma once

#include "kernels/cuda/hopper_attention.cuh"
#include "kernels/cuda/hopper_queries.cuh"

namespace streamchar::cuda::hopper_attention {

inline constexpr float kLazyGrowth = 8.0f;     // to base 2
inline constexpr float kSwiftSum = 65536.0f;   // of a thread's weights of a row of a tile

// One consumer warpgroup's state: 64 rows, of which a thread has two, and their running softmax.
template <int kDim, bool kNarrow, int kWay>
struct Consumer {
  using S = Shape<kDim, kNarrow, kWay>;
  static constexpr int kLogits = kKeys / 2;   // of a thread

  const Problem& problem;
  unsigned char* memory;  // shared memory's start, and its address for the asynchronous units
  uint32_t shared;
  int group;              // 0 to kGroups - 1
  int thread;             // 0 to 127
  float scale;            // of logits, to base 2
  Ring<S::kKeyStages> key;
  Ring<S::kValueStages> value;
  Ring<S::kQueryStages> query;
  bool has_queries = false;   // of the first segment of the first part, and whatever came after

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
  // One arrival per warp, at every block that copies into this one's stages.
  __device__ __forceinline__ void release(uint32_t barrier) const {
    if constexpr (kWay & kPairs) {
      if (lane() < 2) barrier_arrive_at(barrier, lane());
    } else {
      if (lane() == 0) barrier_arrive(barrier);
    }
  }

  // Products are issued in turns, warpgroup after warpgroup. The last one opens the first one's first turn.
  static constexpr int kFirstTurn = 1 + S::kGroups;   // named barrier
  __device__ __forceinline__ void open_turns() const {
    if (kWay & kTurns && group == S::kGroups - 1) pair_arrive(kFirstTurn);
  }
  __device__ __forceinline__ void take_turn() const {
    if constexpr (kWay & kTurns) pair_sync(kFirstTurn + group);
  }
  __device__ __forceinline__ void pass_turn() const {
    if constexpr (kWay & kTurns) pair_arrive(kFirstTurn + (group + 1 == S::kGroups ? 0 : group + 1));
  }

  __device__ __forceinline__ void begin(const WorkPart& part) {
    stream = &problem.call.streams[part.stream];
    head = part.head;
    first_row = (part.query_block * kTileBlocks<kWay> + block_rank<kWay>()) * S::kRows + group * 64;
    unit = 1.0f;
    rows.clear();
    if constexpr (!S::kQueriesAhead) make_base();
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

  // From here on `query` is the tile of a segment's queries. Returns what the sums so far are to be multiplied by.
  __device__ __forceinline__ float enter(const Segment& segment) {
    if constexpr (S::kQueriesAhead) {
      if (lane() == 0) barrier_arrive(barriers().query_empty(query.stage));   // its products have been waited for
      query.advance();
      barrier_wait(barriers().query_full(query.stage), query.parity);
      return 1.0f;
    } else {
      return make_queries(segment);
    }
  }

  // The same at a part's begin. Nobody has made the very first ones ahead.
  __device__ __forceinline__ void enter_part(const Segment& segment) {
    if (!S::kQueriesAhead || has_queries) {
      enter(segment);
      return;
    }
    has_queries = true;
    constexpr int kBatch = 8;
#pragma unroll 1
    for (int r = 0; r < 16; r += kBatch) {
      make_query_rows<kDim, kBatch, kDim == 128>(*stream, segment, head, first_row, thread / 32 * 16 + r,
                                    memory + group * S::kGroupTile, lane());
    }
    publish_shared();
    group_sync(1 + group);
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
    const uint64_t queries = hopper::row_operand(shared + query.stage * S::kQueryTile + group * S::kGroupTile);
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
    leave_keys();
  }
  __device__ __forceinline__ void leave_keys() {
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
  __device__ __forceinline__ void keep_apart(const float (&sums)[2]) const {
    const uint32_t signs = __float_as_uint(sums[0]) & __float_as_uint(sums[1]);
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
      if (kWay & kLazy && !((top - rows.maximum[r]) * scale > kLazyGrowth)) top = rows.maximum[r];
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

  // Multiplies the sums by `factor`.
  __device__ __forceinline__ void rescale() {
    if constexpr (kWay & kLazy) {
      if (!__any_sync(~0u, factor[0] != 1.0f || factor[1] != 1.0f)) return;
    }
    rows.multiply(factor);
  }

  __device__ __forceinline__ void pack_step(int k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) weights[k][i] = pack<kNarrow>(logits[8 * k + 2 * i], logits[8 * k + 2 * i + 1]);
  }
  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) pack_step(k);
  }

  // Logits of 16 keys become weights relative to the maximum so far, and go into `sums`.
  __device__ __forceinline__ void weigh_step(int k, const float (&offset)[2], float (&sums)[2]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& x = logits[8 * k + i];
      x = exp2_fast(x * scale - offset[i / 2 % 2]);
      sums[i / 2 % 2] += x;
    }
  }

  // The rest of a tile after its logits are there, while the values of the one before are summed: without the maximum
  // where that is as good, as the weights' sums tell in the end. Where not, the logits are made again.
  __device__ __forceinline__ void swift_softmax(int keys) {
    constexpr int kSteps = kKeys / 16, kHalf = kSteps / 2;
    pin(logits);
    mask(keys);
    const float offset[2] = {rows.maximum[0] * scale, rows.maximum[1] * scale};
    float sums[2] = {};
#pragma unroll
    for (int k = 0; k < kHalf; ++k) weigh_step(k, offset, sums);
    keep_apart(sums);
    values_done();
#pragma unroll
    for (int k = kHalf; k < kSteps; ++k) {
      weigh_step(k, offset, sums);
      pack_step(k - kHalf);
    }
#pragma unroll
    for (int k = kHalf; k < kSteps; ++k) pack_step(k);
    // Products are for all four warps, so one question for all of them.
    if (group_any(1 + group, !(sums[0] < kSwiftSum && sums[1] < kSwiftSum))) {
      start_logits();
      multiply_wait<0>();
      pin(logits);
      softmax(keys);
      pack_weights();
      rows.multiply(factor);
    } else {
      rows.denominator[0] += sums[0];
      rows.denominator[1] += sums[1];
    }
    leave_keys();
  }

  __device__ __forceinline__ void attend(Walk& walk) {
    if (walk.tiles == 0) return;
    enter_part(walk.segment());
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
      if (walk.at.starts_segment()) ratio = enter(walk.segment());
      await_keys();
      take_turn();
      start_logits();
      start_values();
      pass_turn();
      multiply_wait<1>();  // the logits
      if constexpr (kWay & kSwift) {
        swift_softmax(walk.at.keys);
      } else {
        logits_done();
        softmax(walk.at.keys);
        keep_apart(rows.denominator);
        values_done();
        pack_weights();
        if constexpr (kNarrow) {
          factor[0] *= ratio;
          factor[1] *= ratio;
        }
        rescale();
      }
    }
    start_values();
    values_done();
  }

  __device__ __forceinline__ void finish(const WorkPart& part) {
    const int warp = (block_rank<kWay>() * S::kGroups + group) * 4 + thread / 32;
    rows.finish(kNarrow ? unit : 1.0f);
    if (part.split()) {
      constexpr PartialLayout kLayout{kTileBlocks<kWay> * S::kGroups * 4, kDim};
      constexpr int kTogether = kDim == 64 ? 2 : 1;
      void* const workspace = problem.call.workspace;
      if (!rows.template merge<kTogether>(workspace, kLayout, problem.split, part, warp, lane(), scale)) return;
    }
    rows.store(*stream, head, first_row + thread / 32 * 16, lane(), scale);
  }
};

}  // namespace streamchar::cuda::hopper_attention
