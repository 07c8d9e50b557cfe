#include "kernels/cpu_isa.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "kernels/cpu/cpu_kernels.h"

#if defined(SC_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace streamchar {
namespace {

constexpr CpuIsa kAllIsas[] = {CpuIsa::kGeneric,    CpuIsa::kAvx2,       CpuIsa::kAvxVnni, CpuIsa::kAvx512,
                               CpuIsa::kAvx512Vnni, CpuIsa::kAvx512Bf16, CpuIsa::kAmx};

#if defined(SC_X86)
struct CpuId {
  uint32_t eax, ebx, ecx, edx;
};
CpuId cpu_id(uint32_t leaf, uint32_t subleaf) {
  CpuId id{leaf, 0, subleaf, 0};
  asm volatile("cpuid" : "+a"(id.eax), "=b"(id.ebx), "+c"(id.ecx), "=d"(id.edx));
  return id;
}

// GCC 12's own answer is no, whatever the processor says.
bool has_avx_vnni() { return cpu_id(0, 0).eax >= 7 && cpu_id(7, 0).eax >= 1 && (cpu_id(7, 1).eax & 1u << 4); }
#endif

// Tile registers: the kernel hands out their state on request, once per process.
[[maybe_unused]] bool amx_granted() {
#if defined(SC_X86) && defined(__linux__)
  constexpr uint32_t kNeeded = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return (cpu_id(7, 0).edx & kNeeded) == kNeeded && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Each level needs the one before, but that AVX-512 comes without AVX-VNNI, too.
bool machine_runs(CpuIsa isa) {
#if defined(SC_X86)
  __builtin_cpu_init();
  switch (isa) {
    case CpuIsa::kGeneric: return true;
    case CpuIsa::kAvx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case CpuIsa::kAvxVnni: return machine_runs(CpuIsa::kAvx2) && has_avx_vnni();
    case CpuIsa::kAvx512:
      return machine_runs(CpuIsa::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    case CpuIsa::kAvx512Vnni: return machine_runs(CpuIsa::kAvx512) && __builtin_cpu_supports("avx512vnni");
    case CpuIsa::kAvx512Bf16: return machine_runs(CpuIsa::kAvx512Vnni) && __builtin_cpu_supports("avx512bf16");
    case CpuIsa::kAmx: return machine_runs(CpuIsa::kAvx512Bf16) && amx_granted();
  }
#endif
  return isa == CpuIsa::kGeneric;
}

CpuIsa named_or(const char* name, CpuIsa fallback) {
  for (const CpuIsa isa : available_isas()) {
    if (name && isa_name(isa) == name) return isa;
  }
  return fallback;
}

std::atomic<CpuIsa>& chosen_isa() {
  static std::atomic<CpuIsa> isa{named_or(std::getenv("STREAMCHAR_ISA"), available_isas().back())};
  return isa;
}

}  // namespace

std::string_view isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kGeneric: return "generic";
    case CpuIsa::kAvx2: return "avx2";
    case CpuIsa::kAvxVnni: return "avx_vnni";
    case CpuIsa::kAvx512: return "avx512";
    case CpuIsa::kAvx512Vnni: return "avx512_vnni";
    case CpuIsa::kAvx512Bf16: return "avx512_bf16";
    case CpuIsa::kAmx: return "amx";
  }
  return "";
}

const std::vector<CpuIsa>& available_isas() {
  static const std::vector<CpuIsa> found = [] {
    std::vector<CpuIsa> isas;
    for (const CpuIsa isa : kAllIsas) {
      if (machine_runs(isa)) isas.push_back(isa);
    }
    return isas;
  }();
  return found;
}

CpuIsa current_isa() { return chosen_isa().load(std::memory_order_relaxed); }

bool set_isa(std::string_view name) {
  for (const CpuIsa isa : available_isas()) {
    if (isa_name(isa) != name) continue;
    chosen_isa().store(isa, std::memory_order_relaxed);
    return true;
  }
  return false;
}

const CpuKernels& cpu_kernels() {
#if defined(SC_X86)
  if (current_isa() >= CpuIsa::kAvx512) return avx512::kKernels;
  if (current_isa() >= CpuIsa::kAvx2) return avx2::kKernels;
#endif
  return generic::kKernels;
}

}  // namespace streamchar
