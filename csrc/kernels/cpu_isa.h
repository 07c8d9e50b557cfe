// Which compiled variant of the CPU kernels this machine runs.
#pragma once

#include <string_view>
#include <vector>

namespace streamchar {

enum class CpuIsa { kGeneric, kAvx2, kAvx512 };

std::string_view isa_name(CpuIsa isa);

// Variants that this build has and this machine can run, slowest first.
const std::vector<CpuIsa>& available_isas();

// The variant in use: the fastest available one, or what the environment variable STREAMCHAR_ISA
// (generic, avx2, avx512) asked for when the library was loaded, as far as it is available.
CpuIsa current_isa();

// For tests. False, and nothing changes, if the variant is not available.
bool set_isa(std::string_view name);

// Whether bf16 caches are multiplied by AMX tiles (otherwise they are widened to fp32 panel by panel).
bool amx_available();

}  // namespace streamchar
