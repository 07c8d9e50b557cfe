#include "kernels/segment_attention.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/thread_pool.h"

namespace streamchar {

bool cpu_head_dim_supported(int head_dim) { return head_dim == 64 || head_dim == 128; }

void segment_attention_cpu(const SegmentAttention& call) {
  auto* const block_kernel = cpu_kernels().attention_block;
  const int blocks = (call.tokens + kBlockRows - 1) / kBlockRows;
  // Consecutive items share a head, and so its panels in the second-level cache.
  ThreadPool::global().run(call.heads * blocks, [&](int item) noexcept {
    block_kernel(call, item / blocks, item % blocks * kBlockRows);
  });
}

}  // namespace streamchar
