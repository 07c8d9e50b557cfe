// Where keys and values of one layer of one cache slot lie in memory.
//
// Panels (CPU). Per head, tokens come in panels of 64. A panel is the key block followed by the value block:
//   fp32:  key [head_dim][64] (transposed, so that one query channel meets 64 keys in consecutive lanes),
//          value [64][head_dim]
//   bf16:  key [head_dim / 2][64][2] and value [64 / 2][head_dim][2]: consecutive pairs along the summed
//          axis, which is what AMX and VDPBF16PS multiply
// Both have 64 * head_dim elements each. A tail panel's unused tokens are zero.
//   int8:  groups of four along the summed axis, key [head_dim / 4][64][4] and value [64 / 4][head_dim][4], which is
//          what VPDPBUSD multiplies; then the steps that the numbers count, one for each key and one for each
//          channel of the panel's values (see Int8Panel)
//
// Rows (GPU). Key [rows][heads][head_dim], then value the same: what cp.async and TMA fetch as boxes.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace streamchar {

enum class KvType : int32_t { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2 };

inline constexpr int kPanelTokens = 64;

// Where the parts of an int8 panel lie, in bytes from its start. All are aligned to 64.
struct Int8Panel {
  int head_dim;

  SC_HOST_DEVICE constexpr int64_t values() const { return int64_t{kPanelTokens} * head_dim; }
  // float (64,)
  SC_HOST_DEVICE constexpr int64_t key_steps() const { return 2 * values(); }
  // int32 (64,): -128 times the sum of a key's numbers
  SC_HOST_DEVICE constexpr int64_t key_offsets() const { return key_steps() + 256; }
  // float (head_dim,)
  SC_HOST_DEVICE constexpr int64_t value_steps() const { return key_offsets() + 256; }
  SC_HOST_DEVICE constexpr int64_t bytes() const { return value_steps() + int64_t{4} * head_dim; }
};

struct PanelLayout {
  int heads;
  int head_dim;
  int capacity;  // tokens

  SC_HOST_DEVICE int panels_per_head() const { return (capacity + kPanelTokens - 1) / kPanelTokens; }
  SC_HOST_DEVICE int64_t block_elements() const { return int64_t{kPanelTokens} * head_dim; }
  SC_HOST_DEVICE int64_t layer_elements() const {
    return int64_t{heads} * panels_per_head() * 2 * block_elements();
  }
  SC_HOST_DEVICE int64_t key_block(int head, int panel) const {
    return (int64_t{head} * panels_per_head() + panel) * 2 * block_elements();
  }
  SC_HOST_DEVICE int64_t value_block(int head, int panel) const {
    return key_block(head, panel) + block_elements();
  }

  SC_HOST_DEVICE int64_t panel_bytes(KvType type) const {
    if (type == KvType::kInt8) return Int8Panel{head_dim}.bytes();
    return 2 * block_elements() * (type == KvType::kFloat32 ? 4 : 2);
  }
  SC_HOST_DEVICE int64_t panel_offset(KvType type, int head, int panel) const {  // in bytes
    return (int64_t{head} * panels_per_head() + panel) * panel_bytes(type);
  }
  SC_HOST_DEVICE int64_t layer_bytes(KvType type) const { return panel_offset(type, heads, 0); }
};

// Element offsets inside one block of a panel; `token` is 0..63.
SC_HOST_DEVICE int64_t key_offset_f32(int token, int channel) { return int64_t{channel} * kPanelTokens + token; }
SC_HOST_DEVICE int64_t value_offset_f32(int token, int channel, int head_dim) {
  return int64_t{token} * head_dim + channel;
}
SC_HOST_DEVICE int64_t key_offset_bf16(int token, int channel) {
  return (int64_t{channel / 2} * kPanelTokens + token) * 2 + channel % 2;
}
SC_HOST_DEVICE int64_t value_offset_bf16(int token, int channel, int head_dim) {
  return (int64_t{token / 2} * head_dim + channel) * 2 + token % 2;
}

SC_HOST_DEVICE int64_t key_offset_int8(int token, int channel) {
  return (int64_t{channel / 4} * kPanelTokens + token) * 4 + channel % 4;
}
SC_HOST_DEVICE int64_t value_offset_int8(int token, int channel, int head_dim) {
  return (int64_t{token / 4} * head_dim + channel) * 4 + token % 4;
}

struct RowLayout {
  int heads;
  int head_dim;
  int capacity;  // tokens

  SC_HOST_DEVICE int64_t row_elements() const { return int64_t{heads} * head_dim; }
  SC_HOST_DEVICE int64_t layer_elements() const { return 2 * int64_t{capacity} * row_elements(); }
  SC_HOST_DEVICE int64_t key(int token, int head) const {
    return int64_t{token} * row_elements() + int64_t{head} * head_dim;
  }
  SC_HOST_DEVICE int64_t value(int token, int head) const {
    return int64_t{capacity} * row_elements() + key(token, head);
  }
};

}  // namespace streamchar
