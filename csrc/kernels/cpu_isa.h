// Which compiled variant of the CPU kernels this machine runs.
#pragma once

#include <string_view>
#include <vector>

namespace streamchar {

// From kAvx512 on each level adds instructions for products of narrow numbers: int8 (VNNI), bf16, then tiles of
// both (AMX). Kernels without such products run their kAvx512 code there. kAvxVnni is kAvx2 with products of int8, for
// processors that have no AVX-512.
enum class CpuIsa { kGeneric, kAvx2, kAvxVnni, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx };

std::string_view isa_name(CpuIsa isa);

// Variants that this build has and this machine can run, slowest first.
const std::vector<CpuIsa>& available_isas();

// The variant in use: the fastest available one, or what the environment variable STREAMCHAR_ISA
// (generic, avx2, avx_vnni, avx512, avx512_vnni, avx512_bf16, amx) asked for when it was first needed, if available.
CpuIsa current_isa();

// For tests. False, and nothing changes, if the variant is not available.
bool set_isa(std::string_view name);

}  // namespace streamchar
