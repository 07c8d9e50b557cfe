// Version, instruction sets, threads.
#include <cstdint>
#include <string>
#include <vector>

#include "capi/checks.h"
#include "kernels/cpu_isa.h"
#include "kernels/thread_pool.h"

using namespace streamchar;
using namespace streamchar::capi;

uint32_t sc_abi_version(void) { return SC_ABI_MAJOR << 16 | SC_ABI_MINOR; }

const char* sc_version_string(void) { return SC_VERSION; }

const char* sc_status_name(sc_status status) {
  switch (status) {
    case SC_OK: return "SC_OK";
    case SC_E_INVALID_ARGUMENT: return "SC_E_INVALID_ARGUMENT";
    case SC_E_INVALID_STATE: return "SC_E_INVALID_STATE";
    case SC_E_ABI_MISMATCH: return "SC_E_ABI_MISMATCH";
    case SC_E_UNSUPPORTED: return "SC_E_UNSUPPORTED";
    case SC_E_HOST_MEMORY: return "SC_E_HOST_MEMORY";
    case SC_E_INTERNAL: return "SC_E_INTERNAL";
  }
  return "unknown";
}

// isa_name() views string literals, so they end with NUL.
const char* sc_isa(void) { return isa_name(current_isa()).data(); }

const char* sc_available_isa(int32_t index) {
  const std::vector<CpuIsa>& isas = available_isas();
  const bool there = index >= 0 && static_cast<std::size_t>(index) < isas.size();
  return there ? isa_name(isas[static_cast<std::size_t>(index)]).data() : nullptr;
}

sc_status sc_set_isa(const char* name) {
  return guarded([&] {
    check_pointer("name", name);
    if (set_isa(name)) return;
    std::string names;
    for (const CpuIsa isa : available_isas()) names.append(names.empty() ? "" : ", ").append(isa_name(isa));
    fail(SC_E_UNSUPPORTED, "no instruction set '" + std::string(name) + "' in this build on this machine", names);
  });
}

int32_t sc_threads(void) {
  int32_t threads = 1;
  guarded([&] { threads = ThreadPool::global().threads(); });
  return threads;
}

sc_status sc_set_threads(int32_t threads) {
  return guarded([&] {
    check_range("threads", threads, 1, 1024);
    ThreadPool::global().resize(threads);
  });
}
