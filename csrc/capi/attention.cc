// Attention and its panels without a context; rotation tables.
#include <cmath>
#include <vector>

#include "capi/tokens.h"
#include "kernels/kv_append.h"

using namespace streamchar;
using namespace streamchar::capi;

namespace {

constexpr std::uintptr_t kPanelAlignment = 64;

template <typename T>
T* check_panels(const char* name, T* panels) {
  check_pointer(name, panels);
  if (reinterpret_cast<std::uintptr_t>(panels) % kPanelAlignment) {
    fail(SC_E_INVALID_ARGUMENT, std::string(name) + " is not aligned", "memory aligned to 64 bytes");
  }
  return panels;
}

}  // namespace

void sc_kv_append_call_init(sc_kv_append_call* call, uint32_t struct_size) {
  sc_kv_append_call defaults{};
  defaults.norm = kNoNorm;
  init_struct(call, struct_size, defaults);
}

void sc_segment_attention_call_init(sc_segment_attention_call* call, uint32_t struct_size) {
  sc_segment_attention_call defaults{};
  defaults.norm = kNoNorm;
  init_struct(call, struct_size, defaults);
}

sc_status sc_rope_table(int32_t tokens, const double* positions, int32_t pairs, const double* freqs,
                        const int32_t* axes, float* table) {
  return guarded([&] {
    check_range("tokens", tokens, 0, kMaxCount);
    check_range("pairs", pairs, 1, kMaxSmall);
    check_pointer("freqs", freqs);
    check_pointer("axes", axes);
    for (int32_t i = 0; i < pairs; ++i) check_range("axes", axes[i], 0, 2);
    if (tokens) check_pointer("positions", positions), check_pointer("table", table);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int32_t i = 0; i < pairs; ++i) {
        const double angle = positions[3 * t + axes[i]] * freqs[i];
        *table++ = static_cast<float>(std::cos(angle));
        *table++ = static_cast<float>(std::sin(angle));
      }
    }
  });
}

sc_status sc_panels_bytes(int32_t heads, int32_t head_dim, int32_t capacity, int32_t storage, uint64_t* bytes) {
  return guarded([&] {
    check_heads(heads, head_dim);
    check_range("capacity", capacity, 1, kMaxCount);
    const KvType type = kv_type(storage);
    *check_pointer("bytes", bytes) = static_cast<uint64_t>(PanelLayout{heads, head_dim, capacity}.layer_bytes(type));
  });
}

sc_status sc_kv_append(const sc_kv_append_call* given) {
  return guarded([&] {
    const auto call = read_struct("call", given);
    check_heads(call.heads, call.head_dim);
    check_range("capacity", call.capacity, 1, kMaxCount);
    check_range("tokens", call.tokens, 1, call.capacity);
    kv_append_cpu({.tokens = call.tokens,
                   .heads = call.heads,
                   .head_dim = call.head_dim,
                   .type = kv_type(call.storage),
                   .k = token_view("k", call.k),
                   .v = token_view("v", call.v),
                   .norm = head_norm("norm", call.norm, call.tokens),
                   .rope = call.rope,
                   .panels = check_panels("panels", call.panels),
                   .capacity = call.capacity});
  });
}

sc_status sc_kv_read(int32_t heads, int32_t head_dim, int32_t capacity, int32_t storage, const void* panels,
                     int32_t tokens, float* key, float* value) {
  return guarded([&] {
    check_heads(heads, head_dim);
    check_range("capacity", capacity, 1, kMaxCount);
    check_range("tokens", tokens, 1, capacity);
    kv_read_cpu(check_panels("panels", panels), kv_type(storage), capacity, tokens, heads, head_dim,
                check_pointer("key", key), check_pointer("value", value));
  });
}

sc_status sc_segment_attention(const sc_segment_attention_call* given) {
  return guarded([&] {
    const auto call = read_struct("call", given);
    check_range("tokens", call.tokens, 1, kMaxCount);
    check_heads(call.heads, call.head_dim);
    const KvType type = kv_type(call.storage);
    check_range("segment_count", call.segment_count, 0, kMaxCount);
    if (call.segment_count) check_pointer("segments", call.segments);
    std::vector<PanelSegment> segments;
    segments.reserve(static_cast<std::size_t>(call.segment_count));
    for (int32_t i = 0; i < call.segment_count; ++i) {
      const sc_panels& panels = call.segments[i];
      check_range("segment.capacity", panels.capacity, 1, kMaxCount);
      check_range("segment.rows", panels.rows, 0, panels.capacity);
      segments.push_back({check_panels("segment.data", panels.data), panels.capacity, panels.rows, panels.shift});
    }
    segment_attention_cpu({.tokens = call.tokens,
                           .heads = call.heads,
                           .head_dim = call.head_dim,
                           .type = type,
                           .q = token_view("q", call.q),
                           .norm = head_norm("norm", call.norm, call.tokens),
                           .rope = call.rope,
                           .segments = segments.data(),
                           .segment_count = call.segment_count,
                           .out = check_pointer("out", call.out),
                           .lse = call.lse});
  });
}
