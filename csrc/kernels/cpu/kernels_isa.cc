// Compiled once per instruction set, with its flags and -DSC_ISA=<name>.
#include "kernels/cpu/attention_isa.h"
#include "kernels/cpu/kv_append_isa.h"

namespace streamchar::SC_ISA {
namespace {

void attention_block(const SegmentAttention& call, int head, int first_row) noexcept {
  attention_block_any(call, head, first_row);
}

void append_panel(const KvAppend& call, int head, int panel) noexcept { append_panel_any(call, head, panel); }

}  // namespace

extern const CpuKernels kKernels;
const CpuKernels kKernels = {attention_block, append_panel};

}  // namespace streamchar::SC_ISA
