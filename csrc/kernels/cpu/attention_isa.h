// segment_attention of one block of query rows, for the instruction set of this translation unit.
//
// For each panel of 64 keys, a register tile of kTileRows rows at a time: logits, running softmax, weighted values.
// Between two uses of a panel's keys lie one tile of rows and the panel's values, 37 KB at head_dim 64, so both stay in
// the first-level cache whatever the number of rows.
//
// The running sums are relative to a maximum that follows the true one only where a row has grown by more than 2^8:
// weights stay far from overflow, and hardly any panel needs the sums rescaled.
// Queries are scaled by log2(e) / sqrt(head_dim) beforehand, so the softmax works in powers of two.
#pragma once

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/row_tiles.h"
#include "kernels/cpu/token_row.h"

namespace streamchar::SC_ISA {

static constexpr float kLog2E = 1.4426950408889634f;
static constexpr float kLn2 = 0.6931471805599453f;
static constexpr float kNoMaximum = -1e30f;
static constexpr float kGrowth = 8.0f;  // log2 of what weights may exceed 1 by

// Running state of a block's rows. A row's denominator is kept per lane and summed up at the end.
template <int kDim>
struct BlockState {
  alignas(64) float base[kBlockRows][kDim];    // scaled queries at their local positions
  alignas(64) float moved[kBlockRows][kDim];   // ... shifted for the segment at hand
  alignas(64) float sum[kBlockRows][kDim];     // weighted values so far
  alignas(64) float denominator[kBlockRows][kLanes];
  float maximum[kBlockRows];                   // that weights and sums are relative to
};

// logits[r][j] = dot(q[r], key j) for kVectors vectors of keys from lane `first` of a panel. Meanwhile kDim lines from
// `ahead` on come nearer.
template <int kDim, int kRows, int kVectors>
SC_OWN_REGISTERS void logits_tile(const float (*q)[kDim], const float* keys, int first, const char* ahead,
                                  float (*logits)[kPanelTokens]) {
  Vec sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kVectors; ++c) sum[r][c] = broadcast(0.0f);
  }
  const float* key = keys + first;
  for (int d = 0; d < kDim; ++d, key += kPanelTokens, ahead += 64) {
    __builtin_prefetch(ahead, 0, 2);
    Vec k[kVectors];
    for (int c = 0; c < kVectors; ++c) k[c] = in_register(load(key + c * kLanes));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec x = broadcast(q[r][d]);
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) sum[r][c] = fma(x, k[c], sum[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kVectors; ++c) store(&logits[r][first + c * kLanes], sum[r][c]);
  }
}

template <int kDim, int kRows>
SC_INLINE void logits_panel(const float (*q)[kDim], const float* keys, int vectors, const char* ahead,
                            float (*logits)[kPanelTokens]) {
  int done = 0;
  for (; done + kTileVectors <= vectors; done += kTileVectors) {
    logits_tile<kDim, kRows, kTileVectors>(q, keys, done * kLanes, ahead, logits);
  }
  if constexpr (kTileVectors > 2) {
    if (vectors - done == 3) return logits_tile<kDim, kRows, 3>(q, keys, done * kLanes, ahead, logits);
    if (vectors - done == 2) return logits_tile<kDim, kRows, 2>(q, keys, done * kLanes, ahead, logits);
  }
  if (vectors - done == 1) logits_tile<kDim, kRows, 1>(q, keys, done * kLanes, ahead, logits);
}

// Turns a row's logits of `count` keys into weights, and brings maximum, denominator and sums up to date.
template <int kDim>
SC_INLINE void softmax_row(BlockState<kDim>& state, int r, int count, float* logits) {
  const int vectors = (count + kLanes - 1) / kLanes, tail = count % kLanes;
  if (tail) {
    float* last = logits + (vectors - 1) * kLanes;
    store(last, keep_first(load(last), tail, kNoMaximum));
  }
  Vec top = load(logits);
  for (int c = 1; c < vectors; ++c) top = max(top, load(logits + c * kLanes));
  if (any_above(top, state.maximum[r] + kGrowth)) {
    const float now = reduce_max(top);
    const Vec factor = exp2(broadcast(state.maximum[r] - now));
    state.maximum[r] = now;
    store(state.denominator[r], mul(factor, load(state.denominator[r])));
    for (int d = 0; d < kDim; d += kLanes) store(&state.sum[r][d], mul(factor, load(&state.sum[r][d])));
  }
  const Vec reference = broadcast(state.maximum[r]);
  Vec total = load(state.denominator[r]);
  for (int c = 0; c < vectors; ++c) {
    const Vec weight = exp2(sub(load(logits + c * kLanes), reference));
    store(logits + c * kLanes, weight);
    total = add(total, weight);
  }
  store(state.denominator[r], total);
}

// sum[r] += weights[r] . values
template <int kDim, int kRows>
SC_OWN_REGISTERS void values_tile(const float (*weights)[kPanelTokens], const float* values, int count,
                                  float (*sum)[kDim]) {
  for (int first = 0; first < kDim; first += kTileVectors * kLanes) {
    Vec total[kRows][kTileVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kTileVectors; ++c) total[r][c] = load(&sum[r][first + c * kLanes]);
    }
    const float* value = values + first;
    for (int j = 0; j < count; ++j, value += kDim) {
      Vec v[kTileVectors];
      for (int c = 0; c < kTileVectors; ++c) v[c] = in_register(load(value + c * kLanes));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec x = broadcast(weights[r][j]);
#pragma GCC unroll 4
        for (int c = 0; c < kTileVectors; ++c) total[r][c] = fma(x, v[c], total[r][c]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kTileVectors; ++c) store(&sum[r][first + c * kLanes], total[r][c]);
    }
  }
}

template <int kDim>
SC_INLINE void attend_panel(BlockState<kDim>& state, int rows, const float* keys, int count, const char* next) {
  const float* values = keys + kPanelTokens * kDim;
  for_each_tile(rows, [&]<int kRows>(int row) __attribute__((always_inline)) {
    alignas(64) float logits[kRows][kPanelTokens];
    const char* ahead = next + int64_t{row / kTileRows} * kDim * 64;
    logits_panel<kDim, kRows>(state.moved + row, keys, (count + kLanes - 1) / kLanes, ahead, logits);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) softmax_row(state, row + r, count, logits[r]);
    values_tile<kDim, kRows>(logits, values, count, state.sum + row);
  });
}

// An fp32 copy of a bf16 panel's `count` tokens: keys [kDim][64], then values [64][kDim].
template <int kDim>
SC_INLINE void widen_panel(const uint16_t* block, int count, float* wide) {
  Vec even, odd;
  for (int d = 0; d < kDim; d += 2) {
    for (int t = 0; t < count; t += kLanes) {
      widen_pairs(block + key_offset_bf16(t, d), even, odd);
      store(wide + key_offset_f32(t, d), even);
      store(wide + key_offset_f32(t, d + 1), odd);
    }
  }
  const uint16_t* values = block + kPanelTokens * kDim;
  float* wide_values = wide + kPanelTokens * kDim;
  for (int t = 0; t < count; t += 2) {
    for (int d = 0; d < kDim; d += kLanes) {
      widen_pairs(values + value_offset_bf16(t, d, kDim), even, odd);
      store(wide_values + value_offset_f32(t, d, kDim), even);
      store(wide_values + value_offset_f32(t + 1, d, kDim), odd);
    }
  }
}

// The same of an int8 panel.
template <int kDim>
SC_INLINE void widen_panel_int8(const char* panel, int count, float* wide) {
  constexpr Int8Panel kAt{kDim};
  const auto* keys = reinterpret_cast<const int8_t*>(panel);
  const auto* values = keys + kAt.values();
  const auto* key_steps = reinterpret_cast<const float*>(panel + kAt.key_steps());
  const auto* value_steps = reinterpret_cast<const float*>(panel + kAt.value_steps());
  Vec quad[4];
  for (int d = 0; d < kDim; d += 4) {
    for (int t = 0; t < count; t += kLanes) {
      widen_quads(keys + key_offset_int8(t, d), quad);
      for (int i = 0; i < 4; ++i) store(wide + key_offset_f32(t, d + i), mul(quad[i], load(key_steps + t)));
    }
  }
  float* wide_values = wide + kPanelTokens * kDim;
  for (int t = 0; t < count; t += 4) {
    for (int d = 0; d < kDim; d += kLanes) {
      widen_quads(values + value_offset_int8(t, d, kDim), quad);
      const Vec step = load(value_steps + d);
      for (int i = 0; i < 4; ++i) store(wide_values + value_offset_f32(t + i, d, kDim), mul(quad[i], step));
    }
  }
}

template <int kDim>
void attention_block_of(const SegmentAttention& call, int head, int first_row) noexcept {
  BlockState<kDim> state;
  const int rows = min(kBlockRows, call.tokens - first_row);
  const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(kDim));
  for (int r = 0; r < rows; ++r) {
    ready_token<kDim>(call.q, call.norm, call.rope, first_row + r, head, scale, state.base[r]);
    state.maximum[r] = kNoMaximum;
  }
  __builtin_memset(state.sum, 0, sizeof(float) * rows * kDim);
  __builtin_memset(state.denominator, 0, sizeof(float) * rows * kLanes);

  alignas(64) float wide[2 * kPanelTokens * kDim];
  for (int s = 0; s < call.segment_count; ++s) {
    const PanelSegment& segment = call.segments[s];
    for (int r = 0; r < rows; ++r) ready_row<kDim>(state.base[r], nullptr, 0.0f, segment.shift, 1.0f, state.moved[r]);
    const PanelLayout layout{call.heads, kDim, segment.capacity};
    for (int panel = 0; panel * kPanelTokens < segment.rows; ++panel) {
      const int count = min(kPanelTokens, segment.rows - panel * kPanelTokens);
      const char* stored = static_cast<const char*>(segment.data) + layout.panel_offset(call.type, head, panel);
      // A block's tiles bring the panel after this one into the second-level cache, where it is fp32; few layers' keys
      // are found there.
      const char* next = stored + layout.panel_bytes(call.type);
      const float* keys = wide;
      if (call.type == KvType::kFloat32) keys = reinterpret_cast<const float*>(stored);
      if (call.type == KvType::kBFloat16) widen_panel<kDim>(reinterpret_cast<const uint16_t*>(stored), count, wide);
      if (call.type == KvType::kInt8) widen_panel_int8<kDim>(stored, count, wide);
      if (count == kPanelTokens) {
        attend_panel(state, rows, keys, kPanelTokens, next);  // loops of known length
      } else {
        attend_panel(state, rows, keys, count, next);
      }
    }
  }

  for (int r = 0; r < rows; ++r) {
    const int64_t index = int64_t{first_row + r} * call.heads + head;
    const float total = reduce_add(load(state.denominator[r]));
    const Vec inverse = broadcast(total > 0.0f ? 1.0f / total : 0.0f);
    for (int d = 0; d < kDim; d += kLanes) store(call.out + index * kDim + d, mul(inverse, load(&state.sum[r][d])));
    if (call.lse) {
      call.lse[index] = total > 0.0f ? (state.maximum[r] + __builtin_log2f(total)) * kLn2 : -__builtin_inff();
    }
  }
}

SC_INLINE void attention_block_any(const SegmentAttention& call, int head, int first_row) {
  call.head_dim == 64 ? attention_block_of<64>(call, head, first_row) : attention_block_of<128>(call, head, first_row);
}

}  // namespace streamchar::SC_ISA
