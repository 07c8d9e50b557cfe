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

void kv_read_cpu(const void* panels, KvType type, int capacity, int tokens, int heads, int head_dim, float* key,
                 float* value) {
  const PanelLayout layout{heads, head_dim, capacity};
  const auto* f32 = static_cast<const float*>(panels);
  const auto* bf16 = static_cast<const uint16_t*>(panels);
  for (int t = 0; t < tokens; ++t) {
    for (int h = 0; h < heads; ++h) {
      const int64_t key_block = layout.key_block(h, t / kPanelTokens);
      const int64_t value_block = layout.value_block(h, t / kPanelTokens);
      const int row = t % kPanelTokens;
      for (int d = 0; d < head_dim; ++d) {
        const bool wide = type == KvType::kFloat32;
        *key++ = wide ? f32[key_block + key_offset_f32(row, d)] : from_bf16(bf16[key_block + key_offset_bf16(row, d)]);
        *value++ = wide ? f32[value_block + value_offset_f32(row, d, head_dim)]
                        : from_bf16(bf16[value_block + value_offset_bf16(row, d, head_dim)]);
      }
    }
  }
}

}  // namespace streamchar
