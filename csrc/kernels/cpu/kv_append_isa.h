// kv_append of one panel, for the instruction set of this translation unit.
#pragma once

#include "kernels/bfloat16.h"
#include "kernels/cpu/token_row.h"
#include "kernels/int8_step.h"
#include "kernels/kv_append.h"

namespace streamchar::SC_ISA {

// out[c][t] = in[t][c] for a panel's 64 tokens and kColumns words of 32 bits.
template <int kColumns>
SC_INLINE void transpose_panel(const float (*in)[kColumns], float* out) {
  for (int t = 0; t < kPanelTokens; t += kLanes) {
    for (int c = 0; c < kColumns; c += kLanes) {
      transpose_square(&in[t][c], kColumns, out + c * kPanelTokens + t, kPanelTokens);
    }
  }
}

template <int kDim>
SC_INLINE void append_f32(const KvAppend& call, const float (*keys)[kDim], int head, int first, int count, float* key) {
  transpose_panel<kDim>(keys, key);
  float* value = key + kPanelTokens * kDim;
  for (int t = 0; t < count; ++t) __builtin_memcpy(value + t * kDim, call.v.row(first + t, head), kDim * sizeof(float));
  __builtin_memset(value + count * kDim, 0, (kPanelTokens - count) * kDim * sizeof(float));
}

template <int kDim>
SC_INLINE void append_bf16(const KvAppend& call, const float (*keys)[kDim], int head, int first, int count,
                           uint16_t* block) {
  // A pair of channels of one token is one word, so the block is a transposed matrix of words.
  alignas(64) float pairs[kPanelTokens][kDim / 2];
  for (int t = 0; t < kPanelTokens; ++t) {
    for (int i = 0; i < kDim / 2; ++i) {
      const uint32_t word = to_bf16(keys[t][2 * i]) | to_bf16(keys[t][2 * i + 1]) << 16;
      __builtin_memcpy(&pairs[t][i], &word, sizeof word);
    }
  }
  transpose_panel<kDim / 2>(pairs, reinterpret_cast<float*>(block));
  // A channel of two consecutive tokens is one word.
  alignas(64) const float zeros[kDim] = {};
  auto* value = reinterpret_cast<uint32_t*>(block + kPanelTokens * kDim);
  for (int t = 0; t < kPanelTokens; t += 2, value += kDim) {
    const float* even = t < count ? call.v.row(first + t, head) : zeros;
    const float* odd = t + 1 < count ? call.v.row(first + t + 1, head) : zeros;
    for (int d = 0; d < kDim; ++d) value[d] = to_bf16(even[d]) | to_bf16(odd[d]) << 16;
  }
}

SC_INLINE uint32_t magnitude_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits & 0x7FFFFFFFu;
}

// A key that is not finite makes its panel's values NaN: weights are whole numbers, and could not carry it.
template <int kDim>
SC_INLINE void append_int8(const KvAppend& call, const float (*keys)[kDim], int head, int first, int count,
                           char* panel) {
  constexpr Int8Panel kAt{kDim};
  auto* key_steps = reinterpret_cast<float*>(panel + kAt.key_steps());
  auto* key_offsets = reinterpret_cast<int32_t*>(panel + kAt.key_offsets());
  alignas(64) uint8_t narrow[kPanelTokens][kDim];
  bool finite = true;
  for (int t = 0; t < kPanelTokens; ++t) {
    uint32_t largest = 0, sum = 0;
    for (int d = 0; d < kDim; ++d) {
      const uint32_t size = magnitude_bits(keys[t][d]);
      largest = size > largest ? size : largest;
    }
    const float step = int8_step(largest), inverse = int8_inverse(step);
    for (int d = 0; d < kDim; ++d) {
      const uint32_t number = int8_number(keys[t][d], inverse);
      narrow[t][d] = static_cast<uint8_t>(number);
      sum += number;
    }
    key_steps[t] = step;
    key_offsets[t] = static_cast<int32_t>(0u - 128u * sum);
    finite = finite && step == step;
  }
  // Four channels of one token are one word, so the block is a transposed matrix of words.
  transpose_panel<kDim / 4>(reinterpret_cast<const float (*)[kDim / 4]>(narrow), reinterpret_cast<float*>(panel));

  uint32_t largest[kDim] = {};
  for (int t = 0; t < count; ++t) {
    const float* v = call.v.row(first + t, head);
    for (int d = 0; d < kDim; ++d) {
      const uint32_t size = magnitude_bits(v[d]);
      largest[d] = size > largest[d] ? size : largest[d];
    }
  }
  auto* steps = reinterpret_cast<float*>(panel + kAt.value_steps());
  float inverse[kDim];
  for (int d = 0; d < kDim; ++d) {
    const float step = int8_step(largest[d]);
    inverse[d] = int8_inverse(step);
    steps[d] = finite ? step : __builtin_nanf("");
  }
  auto* word = reinterpret_cast<uint32_t*>(panel + kAt.values());
  for (int t = 0; t < kPanelTokens; t += 4, word += kDim) {
    uint32_t words[kDim] = {};
    for (int i = 0; i < 4 && t + i < count; ++i) {
      const float* v = call.v.row(first + t + i, head);
      for (int d = 0; d < kDim; ++d) words[d] |= (int8_number(v[d], inverse[d]) & 0xFFu) << 8 * i;
    }
    __builtin_memcpy(word, words, sizeof words);
  }
}

template <int kDim>
void append_panel_of(const KvAppend& call, int head, int panel) noexcept {
  const PanelLayout layout{call.heads, kDim, call.capacity};
  const int first = panel * kPanelTokens, count = min(kPanelTokens, call.tokens - first);
  alignas(64) float keys[kPanelTokens][kDim];
  for (int t = 0; t < count; ++t) {
    ready_token<kDim>(call.k, call.norm, call.rope, first + t, head, 1.0f, keys[t]);
  }
  for (int t = count; t < kPanelTokens; ++t) __builtin_memset(keys[t], 0, sizeof keys[t]);
  char* target = static_cast<char*>(call.panels) + layout.panel_offset(call.type, head, panel);
  switch (call.type) {
    case KvType::kFloat32:
      return append_f32<kDim>(call, keys, head, first, count, reinterpret_cast<float*>(target));
    case KvType::kBFloat16:
      return append_bf16<kDim>(call, keys, head, first, count, reinterpret_cast<uint16_t*>(target));
    case KvType::kInt8:
      return append_int8<kDim>(call, keys, head, first, count, target);
  }
}

SC_INLINE void append_panel_any(const KvAppend& call, int head, int panel) {
  call.head_dim == 64 ? append_panel_of<64>(call, head, panel) : append_panel_of<128>(call, head, panel);
}

}  // namespace streamchar::SC_ISA
