// kv_append of one panel, for the instruction set of this translation unit.
#pragma once

#include "kernels/cpu/token_row.h"
#include "kernels/kv_append.h"

namespace streamchar::SC_ISA {

SC_INLINE uint16_t to_bf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);                   // nearest, ties to even
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

  if (call.type == KvType::kFloat32) {
    float* key = static_cast<float*>(call.panels) + layout.key_block(head, panel);
    for (int d = 0; d < kDim; ++d) {
      for (int t = 0; t < kPanelTokens; ++t) key[key_offset_f32(t, d)] = keys[t][d];
    }
    float* value = static_cast<float*>(call.panels) + layout.value_block(head, panel);
    for (int t = 0; t < count; ++t) __builtin_memcpy(value + t * kDim, call.v.row(first + t, head), kDim * sizeof(float));
    __builtin_memset(value + count * kDim, 0, (kPanelTokens - count) * kDim * sizeof(float));
    return;
  }
  uint16_t* key = static_cast<uint16_t*>(call.panels) + layout.key_block(head, panel);
  for (int d = 0; d < kDim; d += 2) {
    for (int t = 0; t < kPanelTokens; ++t) {
      key[key_offset_bf16(t, d)] = to_bf16(keys[t][d]);
      key[key_offset_bf16(t, d + 1)] = to_bf16(keys[t][d + 1]);
    }
  }
  uint16_t* value = static_cast<uint16_t*>(call.panels) + layout.value_block(head, panel);
  for (int t = 0; t < kPanelTokens; ++t) {
    const float* row = t < count ? call.v.row(first + t, head) : nullptr;
    for (int d = 0; d < kDim; ++d) value[value_offset_bf16(t, d, kDim)] = row ? to_bf16(row[d]) : uint16_t{0};
  }
}

SC_INLINE void append_panel_any(const KvAppend& call, int head, int panel) {
  call.head_dim == 64 ? append_panel_of<64>(call, head, panel) : append_panel_of<128>(call, head, panel);
}

}  // namespace streamchar::SC_ISA
