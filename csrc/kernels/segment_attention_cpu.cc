#include "kernels/segment_attention.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/thread_pool.h"

namespace streamchar {

bool cpu_head_dim_supported(int head_dim) { return head_dim == 64 || head_dim == 128; }

void segment_attention_cpu(const SegmentAttention& call) {
  auto* block_kernel = cpu_kernels().attention_block;
  int block_rows = kBlockRows;
#if defined(SC_X86)
  if (call.type == KvType::kBFloat16 && current_isa() == CpuIsa::kAmx) {
    block_kernel = amx::attention_block;
    block_rows = kAmxBlockRows;
  }
  if (call.type == KvType::kInt8) {
    if (current_isa() >= CpuIsa::kAvx512Vnni) block_kernel = avx512_vnni::attention_block;
    if (current_isa() == CpuIsa::kAvxVnni) block_kernel = avx_vnni::attention_block;
  }
#endif
  const int blocks = (call.tokens + block_rows - 1) / block_rows;
  // Consecutive items share a head, and so its panels in the second-level cache.
  ThreadPool::global().run(call.heads * blocks, [&](int item) noexcept {
    block_kernel(call, item / blocks, item % blocks * block_rows);
  });
}

}  // namespace streamchar
