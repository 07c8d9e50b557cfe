// What each instruction set's objects offer to the dispatching code: one work item per call, no threads.
#pragma once

#include "kernels/cpu_isa.h"
#include "kernels/kv_append.h"
#include "kernels/segment_attention.h"

namespace streamchar {

// Query rows of one head that one work item handles. Fixed, so that results never depend on threads.
inline constexpr int kBlockRows = 48;
inline constexpr int kAmxBlockRows = 64;

struct CpuKernels {
  // Attention of query rows [first_row, first_row + kBlockRows) of a head.
  void (*attention_block)(const SegmentAttention& call, int head, int first_row) noexcept;
  // Tokens [64 * panel, 64 * panel + 64) of a head into their panel.
  void (*append_panel)(const KvAppend& call, int head, int panel) noexcept;
};

namespace generic { extern const CpuKernels kKernels; }
#if defined(SC_X86)
namespace avx2 { extern const CpuKernels kKernels; }
namespace avx512 { extern const CpuKernels kKernels; }
namespace amx {
// Like CpuKernels::attention_block, for bf16 panels and kAmxBlockRows rows. Only where amx_available().
void attention_block(const SegmentAttention& call, int head, int first_row) noexcept;
}
#endif

// Those of current_isa().
const CpuKernels& cpu_kernels();

}  // namespace streamchar
