#include "kernels/kv_append.h"

#include "kernels/bfloat16.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/thread_pool.h"

namespace streamchar {
void kv_append_cpu(const KvAppend& call) {
  auto* const panel_kernel = cpu_kernels().append_panel;
  const int panels = (call.tokens + kPanelTokens - 1) / kPanelTokens;
  ThreadPool::global().run(call.heads * panels,
                           [&](int item) noexcept { panel_kernel(call, item / panels, item % panels); });
}

namespace {

// Element (token, channel) of a panel's keys and values.
struct KeyValue {
  float key;
  float value;
};

KeyValue read_panel(const char* panel, KvType type, int token, int channel, int head_dim) {
  const int64_t block = int64_t{kPanelTokens} * head_dim;
  if (type == KvType::kFloat32) {
    const auto* f32 = reinterpret_cast<const float*>(panel);
    return {f32[key_offset_f32(token, channel)], f32[block + value_offset_f32(token, channel, head_dim)]};
  }
  if (type == KvType::kBFloat16) {
    const auto* bf16 = reinterpret_cast<const uint16_t*>(panel);
    return {from_bf16(bf16[key_offset_bf16(token, channel)]),
            from_bf16(bf16[block + value_offset_bf16(token, channel, head_dim)])};
  }
  const Int8Panel at{head_dim};
  const auto* int8 = reinterpret_cast<const int8_t*>(panel);
  const auto* key_steps = reinterpret_cast<const float*>(panel + at.key_steps());
  const auto* value_steps = reinterpret_cast<const float*>(panel + at.value_steps());
  return {static_cast<float>(int8[key_offset_int8(token, channel)]) * key_steps[token],
          static_cast<float>(int8[at.values() + value_offset_int8(token, channel, head_dim)]) * value_steps[channel]};
}

}  // namespace

void kv_read_cpu(const void* panels, KvType type, int capacity, int tokens, int heads, int head_dim, float* key,
                 float* value) {
  const PanelLayout layout{heads, head_dim, capacity};
  for (int t = 0; t < tokens; ++t) {
    for (int h = 0; h < heads; ++h) {
      const char* panel = static_cast<const char*>(panels) + layout.panel_offset(type, h, t / kPanelTokens);
      for (int d = 0; d < head_dim; ++d) {
        const KeyValue found = read_panel(panel, type, t % kPanelTokens, d, head_dim);
        *key++ = found.key;
        *value++ = found.value;
      }
    }
  }
}

}  // namespace streamchar
