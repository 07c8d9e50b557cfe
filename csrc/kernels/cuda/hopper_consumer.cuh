// A consumer warpgroup of segment_attention_sm90.cu: queries, products, softmax, results.
#pragma once

#include "kernels/cuda/hopper_attention.cuh"
#include "kernels/cuda/hopper_queries.cuh"

namespace streamchar::cuda::hopper_attention {

// Weights are relative to a maximum that need not be the true one: float32 and bfloat16 have exponents to spare. The first
// tile of a part has its maximum looked for. A later one's weights are taken as they are while a thread's sum of them stays
// below 2^24 (in float16, which holds less: 2^13), which is nearly always; else its warp multiplies and weighs it once
// more, and the maximum follows where a row grows by more than 2^8.
template <bool kNarrow>
inline constexpr float kMostWeight = kNarrow ? 8192.0f : 16777216.0f;
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
  QueryRing ahead;        // the next queries' tile
  Ring<S::kStages> key;
  Ring<S::kStages> value;

  float unit;             // what the sums are multiples of: the range of narrow values, per step
  float logits[kLogits];
  AttentionRows<kDim> rows;
  uint32_t weights[kKeys / 16][4];
  float factor[2];

  __device__ __forceinline__ Barriers<S> barriers() const { return {shared + S::kBarriers}; }
  __device__ __forceinline__ int lane() const { return thread & 31; }
  __device__ __forceinline__ int warp() const { return group * 4 + thread / 32; }
  // One arrival per warp.
  __device__ __forceinline__ void release(uint32_t barrier) const {
    if (lane() == 0) barrier_arrive(barrier);
  }

  // The thread block's first queries, which nobody has made ahead: each warp makes its own rows. False if the thread
  // block has no tile.
  __device__ __forceinline__ bool make_first_queries() {
    constexpr int kTogether = kDim == 64 ? 4 : 8;
    WorkPart part;
    Planner planner;
    Visit visit;
    planner.begin();
    do {
      planner.template advance<1>(problem.call, problem.split, &part, visit);
      if (visit.kind == Visit::kEnd) return false;
    } while (visit.kind == Visit::kEmpty);
    const Segment& segment = problem.call.segments[visit.listed];
    float key_unit = 1.0f;
    if constexpr (kNarrow) key_unit = from_storage_factor(problem.call.storage, segment.key_range[visit.head]);
    const QueryRows<kDim, kNarrow> rows{problem.call.streams[visit.stream], visit.head, visit.query_block * S::kRows,
                                        segment, key_unit, lane()};
    rows.template make<kTogether>(memory, 16 * warp(), 16 * warp() + 16, memory + S::kBase);
    publish_shared();
    group_sync(1 + group);
    barrier_arrive(barriers().first_made());
    return true;
  }

  // On to the queries of another segment; all products with those before are done.
  __device__ __forceinline__ void next_queries() {
    release(barriers().query_empty(ahead.tile() ^ 1));
    barrier_wait(barriers().query_full(ahead.tile()), ahead.parity);
    ahead.advance();
  }

  // The warpgroups start their products by turns, so that one's softmax runs while the other multiplies. Left alone they
  // stay in step where they started so.
  static constexpr int kTurn = 3;   // the first of two named barriers, after those of the warpgroups
  __device__ __forceinline__ void take_turn() const { pair_sync(kTurn + group); }
  __device__ __forceinline__ void pass_turn() const { pair_arrive(kTurn + 1 - group); }

  // The tile of keys that comes next.
  __device__ __forceinline__ TileNote await_keys() const {
    barrier_wait(barriers().key_full(key.stage), key.parity);
    return told(Notes<S>{memory}.tiles()[key.stage], lane());
  }
  // Of the queries that are met.
  __device__ __forceinline__ uint32_t queries() const {
    return shared + (ahead.tile() ^ 1) * S::kQueryTile + group * S::kGroupTile;
  }
  __device__ __forceinline__ void start_logits() {
    const uint64_t queries = hopper::row_operand(this->queries());
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

  // The tile's logits once more, by this warp alone. As wgmma, mma.sync leaves a thread two channels of every eight.
  __device__ __forceinline__ void repeat_logits() {
    const uint32_t keys = shared + S::kKeyTiles + key.stage * S::kTile;
#pragma unroll
    for (int i = 0; i < kLogits; ++i) logits[i] = 0.0f;
#pragma unroll 1
    for (int k = 0; k < kDim / 16; ++k) {
      uint32_t a[4];
      load_matrices(a, queries() + hopper::tile_offset(64, thread / 32 * 16 + (lane() & 15), k * 16 + (lane() >> 4) * 8));
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        load_matrices(b, keys + hopper::tile_offset(kKeys, n * 16 + (lane() & 7) + (lane() >> 4) * 8,
                                                    k * 16 + (lane() >> 3 & 1) * 8));
        multiply_add<kNarrow>(logits + 8 * n, a, b[0], b[1]);
        multiply_add<kNarrow>(logits + 8 * n + 4, a, b[2], b[3]);
      }
    }
    __syncwarp();  // one lane says for all of them that the keys may be overwritten
  }

  __device__ __forceinline__ void release_keys() {
    release(barriers().key_empty(key.stage));
    key.advance();
  }

  __device__ __forceinline__ void start_values(bool add) {
    const uint64_t values = hopper::column_operand(shared + S::kValueTiles + value.stage * S::kTile, kKeys);
    barrier_wait(barriers().value_full(value.stage), value.parity);
    pin(rows.sum);
    multiply_begin();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      multiply_columns<kNarrow>(rows.sum, weights[k], hopper::further(values, hopper::column_operand_step(k)),
                                k ? 1 : add);
    }
    multiply_commit();
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

  // Turns the logits of `keys` keys into weights relative to the maximum so far. False, for the whole warp, if they grow too
  // large for that, or are not finite.
  //
  // ptxas moves the wait for the weighted values up to where they were started, before what is to run meanwhile, unless a
  // branch lies between that needs its results. Here it is the warp's vote; where there is none, keep_apart().
  __device__ __forceinline__ bool weigh(int keys) {
    mask(keys);
    float sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float offset = rows.state.maximum[r] * scale;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 4 * n + 2 * r; e < 4 * n + 2 * r + 2; ++e) {
          logits[e] = exp2_fast(logits[e] * scale - offset);
          sum[r] += logits[e];
        }
      }
    }
    if (__any_sync(~0u, !(sum[0] + sum[1] <= kMostWeight<kNarrow>))) return false;
    rows.state.denominator[0] += sum[0];
    rows.state.denominator[1] += sum[1];
    return true;
  }

  // A branch that is never taken, as sums of weights are not negative; what it would wait for has happened.
  __device__ __forceinline__ void keep_apart() const {
    const uint32_t signs = __float_as_uint(rows.state.denominator[0]) & __float_as_uint(rows.state.denominator[1]);
    if (signs >> 31) barrier_wait(barriers().value_full(value.stage), value.parity);
  }

  // Turns the logits into weights, with the maximum looked for; `factor` is what earlier sums are to be multiplied by.
  __device__ __forceinline__ void softmax(int keys) {
    mask(keys);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = rows.state.maximum[r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(logits[4 * n + 2 * r], logits[4 * n + 2 * r + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      if (!((top - rows.state.maximum[r]) * scale > kLazyGrowth)) top = rows.state.maximum[r];
      factor[r] = exp2_fast((rows.state.maximum[r] - top) * scale);
      rows.state.maximum[r] = top;
      rows.state.denominator[r] *= factor[r];
      const float offset = top * scale;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 4 * n + 2 * r; e < 4 * n + 2 * r + 2; ++e) {
          logits[e] = exp2_fast(logits[e] * scale - offset);
          rows.state.denominator[r] += logits[e];
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
      pin(weights[k]);
    }
  }

  // All of the thread block's tiles. The weighted values of a tile are summed while the next one's softmax runs, be it
  // of the same part or not.
  __device__ __forceinline__ void attend() {
    if (!make_first_queries()) return;
    TileNote note = await_keys();
    int part = note.part();
    bool add = false;   // the values to be summed next to the sums; else they begin them
    unit = note.value_unit;
    rows.clear();
    if (group == 1) pair_arrive(kTurn);
    take_turn();
    start_logits();
    pass_turn();
    multiply_wait<0>();
    pin(logits);
    softmax(note.keys());
    release_keys();
    pack_weights();
#pragma unroll 1
    while (!(note = await_keys()).is(TileNote::kEnd)) {
      if (note.is(TileNote::kNewQueries)) next_queries();
      const bool same = !note.is(TileNote::kNewPart);
      take_turn();
      start_logits();
      start_values(add);
      pass_turn();
      add = same;
      multiply_wait<1>();  // the logits
      pin(logits);
      const RowState ended = rows.state;
      bool weighed = false;
      if (same) {
        weighed = weigh(note.keys());
        if (!weighed) repeat_logits();
      }
      if (!weighed) {
        if (!same) rows.state = RowState::none();
        softmax(note.keys());
        keep_apart();
      }
      release_keys();
      values_done();
      pack_weights();
      if (!same) {
        const RowState begun = rows.state;
        rows.state = ended;
        finish(part);
        rows.state = begun;
        part = note.part();
      } else if (kNarrow || !weighed) {
        if constexpr (kNarrow) {
          const float ratio = unit / note.value_unit;
          factor[0] = weighed ? ratio : factor[0] * ratio;
          factor[1] = weighed ? ratio : factor[1] * ratio;
        }
        rescale();
      }
      unit = note.value_unit;
    }
    if (group == 0) take_turn();  // the last that was passed on
    start_values(add);
    values_done();
    finish(part);
  }

  // The results of the part with note `index`.
  __device__ __forceinline__ void finish(int index) {
    const WorkPart part = told(Notes<S>{memory}.parts()[index], lane());
    rows.finish(kNarrow ? unit : 1.0f);
    if (part.split()) {
      constexpr PartialLayout kLayout{S::kGroups * 4, kDim};
      void* const workspace = problem.call.workspace;
      if (!rows.template merge<8>(workspace, kLayout, part, warp(), lane(), scale)) return;
    }
    rows.store(problem.call.streams[part.stream], part.head, part.query_block * S::kRows + 16 * warp(), lane(), scale);
  }
};

}  // namespace streamchar::cuda::hopper_attention
