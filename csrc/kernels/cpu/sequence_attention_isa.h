// sequence_attention of one key head, for the instruction set of this translation unit: its keys and values become
// panels (kv_layout.h), then queries go through them as in segment_attention.
#pragma once

#include "kernels/cpu/attention_isa.h"
#include "kernels/cpu/kv_append_isa.h"
#include "kernels/sequence_attention.h"

namespace streamchar::SC_ISA {

// out = turn(norm(x)) * scale of one token's head.
template <int kDim>
SC_INLINE void ready_sequence_row(const SequenceRows& rows, int token, int head, float eps, float scale, float* out) {
  constexpr int kHalf = kDim / 2;
  ready_row<kDim>(rows.data + token * rows.stride + int64_t{head} * kDim, rows.norm, eps, nullptr, scale, out);
  if (!rows.turns) return;
  const float* cosine = rows.turns + int64_t{token} * kDim;
  for (int i = 0; i < kHalf; i += kLanes) {
    const Vec a = load(out + i), b = load(out + kHalf + i), c = load(cosine + i), s = load(cosine + kHalf + i);
    store(out + i, sub(mul(a, c), mul(b, s)));
    store(out + kHalf + i, fma(a, s, mul(b, c)));
  }
}

template <int kDim>
SC_INLINE void fill_panel(const SequenceAttention& call, int kv_head, int first, int count, float* panel) {
  alignas(64) float keys[kPanelTokens][kDim];
  for (int t = 0; t < count; ++t) ready_sequence_row<kDim>(call.k, first + t, kv_head, call.eps, 1.0f, keys[t]);
  for (int t = count; t < kPanelTokens; ++t) __builtin_memset(keys[t], 0, sizeof keys[t]);
  transpose_panel<kDim>(keys, panel);
  float* value = panel + kPanelTokens * kDim;
  for (int t = 0; t < count; ++t, value += kDim) {
    __builtin_memcpy(value, call.v + (first + t) * call.k.stride + int64_t{kv_head} * kDim, kDim * sizeof(float));
  }
  __builtin_memset(value, 0, (kPanelTokens - count) * kDim * sizeof(float));
}

// attend_panel() where row r of the state sees the first `seen` + r keys of the panel alone; `seen` may be negative.
template <int kDim>
SC_INLINE void attend_causal_panel(BlockState<kDim>& state, int rows, const float* keys, int seen) {
  const float* values = keys + kPanelTokens * kDim;
  const auto* ahead = reinterpret_cast<const char*>(values);
  for_each_tile(rows, [&]<int kRows>(int row) __attribute__((always_inline)) {
    const int most = min(seen + row + kRows - 1, kPanelTokens);
    if (most <= 0) return;
    alignas(64) float logits[kRows][kPanelTokens];
    logits_panel<kDim, kRows>(state.moved + row, keys, (most + kLanes - 1) / kLanes, ahead, logits);
    for (int r = 0; r < kRows; ++r) {
      int own = min(seen + row + r, most);
      if (own > 0) softmax_row(state, row + r, own, logits[r]);
      for (own = own < 0 ? 0 : own; own < most; ++own) logits[r][own] = 0.0f;  // what only later rows of the tile see
    }
    values_tile<kDim, kRows>(logits, values, most, state.sum + row);
  });
}

template <int kDim>
void sequence_block_of(const SequenceAttention& call, int head, int first_row, const float* panels) {
  BlockState<kDim> state;
  const int rows = min(kBlockRows, call.queries - first_row);
  const float scale = kLog2E / __builtin_sqrtf(static_cast<float>(kDim));
  for (int r = 0; r < rows; ++r) {
    ready_sequence_row<kDim>(call.q, first_row + r, head, call.eps, scale, state.moved[r]);
    state.maximum[r] = kNoMaximum;
  }
  __builtin_memset(state.sum, 0, sizeof(float) * rows * kDim);
  __builtin_memset(state.denominator, 0, sizeof(float) * rows * kLanes);
  const int keys = call.causal ? first_row + rows : call.keys;
  for (int first = 0; first < keys; first += kPanelTokens, panels += 2 * kPanelTokens * kDim) {
    if (call.causal) {
      attend_causal_panel(state, rows, panels, first_row + 1 - first);
    } else {
      attend_panel(state, rows, panels, min(kPanelTokens, keys - first), reinterpret_cast<const char*>(panels));
    }
  }
  for (int r = 0; r < rows; ++r) {
    float* out = call.out + (first_row + r) * call.out_stride + int64_t{head} * kDim;
    const float total = reduce_add(load(state.denominator[r]));
    const Vec inverse = broadcast(total > 0.0f ? 1.0f / total : 0.0f);
    for (int d = 0; d < kDim; d += kLanes) store(out + d, mul(inverse, load(&state.sum[r][d])));
  }
}

template <int kDim>
void sequence_attention_of(const SequenceAttention& call, int kv_head, float* panels) {
  for (int first = 0; first < call.keys; first += kPanelTokens) {
    fill_panel<kDim>(call, kv_head, first, min(kPanelTokens, call.keys - first), panels + int64_t{2} * first * kDim);
  }
  const int group = call.heads / call.kv_heads;
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int row = 0; row < call.queries; row += kBlockRows) sequence_block_of<kDim>(call, head, row, panels);
  }
}

SC_INLINE void sequence_attention_any(const SequenceAttention& call, int kv_head, float* panels) {
  call.head_dim == 64 ? sequence_attention_of<64>(call, kv_head, panels)
                      : sequence_attention_of<128>(call, kv_head, panels);
}

}  // namespace streamchar::SC_ISA
