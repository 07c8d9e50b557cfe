#include "kernels/cpu_isa.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <utility>

#include "kernels/cpu/cpu_kernels.h"

#if defined(SC_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace streamchar {
namespace {

bool machine_runs(CpuIsa isa) {
#if defined(SC_X86)
  __builtin_cpu_init();
  if (isa == CpuIsa::kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == CpuIsa::kAvx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
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

bool detect_amx() {
#if defined(SC_X86) && defined(__linux__)
  const auto leaf_7 = [](uint32_t subleaf) {
    uint32_t eax = 7, ebx, ecx = subleaf, edx;
    asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return std::pair{eax, edx};
  };
  constexpr uint32_t kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAvx512Bf16 = 1u << 5;
  const uint32_t amx = leaf_7(0).second;
  if (!(amx & kAmxBf16) || !(amx & kAmxTile) || !machine_runs(CpuIsa::kAvx512)) return false;
  if (!(leaf_7(1).first & kAvx512Bf16)) return false;
  // The kernel hands out the tile registers' state on request, once per process.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

std::string_view isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kGeneric: return "generic";
    case CpuIsa::kAvx2: return "avx2";
    case CpuIsa::kAvx512: return "avx512";
  }
  return "";
}

const std::vector<CpuIsa>& available_isas() {
  static const std::vector<CpuIsa> found = [] {
    std::vector<CpuIsa> isas;
    for (const CpuIsa isa : {CpuIsa::kGeneric, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
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

bool amx_available() {
  static const bool found = detect_amx();
  return found;
}

const CpuKernels& cpu_kernels() {
#if defined(SC_X86)
  switch (current_isa()) {
    case CpuIsa::kAvx512: return avx512::kKernels;
    case CpuIsa::kAvx2: return avx2::kKernels;
    case CpuIsa::kGeneric: break;
  }
#endif
  return generic::kKernels;
}

}  // namespace streamchar
