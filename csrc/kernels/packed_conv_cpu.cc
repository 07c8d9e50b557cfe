#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/thread_pool.h"
#include "kernels/thread_scratch.h"

namespace streamchar {
namespace {

ConvKernel kernel() {
#if defined(SC_X86)
  if (current_isa() >= CpuIsa::kAvx512Vnni) return avx512_vnni::conv_block;
  if (current_isa() == CpuIsa::kAvxVnni) return avx_vnni::conv_block;
#endif
  return cpu_kernels().conv_block;
}

}  // namespace

void packed_conv_cpu(const PackedConv& conv, const ConvCall& call) {
  const PackedFilters& filters = conv.filters();
  const ConvKernel block = kernel();
  const int rows = call.height >= 2 * kConvRows ? kConvRows : kConvRows / 2;  // some for each thread
  const int blocks = (call.height + rows - 1) / rows;
  ThreadPool::global().run(call.batch * blocks, [&](int item) noexcept {
    const int first = item % blocks * rows;
    block(filters, call,
          {.picture = item / blocks, .first_row = first, .rows = std::min(rows, call.height - first)},
          thread_scratch(Scratch::kItem, conv_scratch_bytes(filters, call.width)));
  });
}

}  // namespace streamchar
