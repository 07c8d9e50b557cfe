// Instruction sets and threads.
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "bindings/bindings.h"
#include "kernels/cpu_isa.h"
#include "kernels/thread_pool.h"

namespace streamchar::bindings {

namespace py = pybind11;

void bind_machine(py::module_& module) {
  module.attr("cuda_architectures") = SC_CUDA_ARCHITECTURES;
  module.attr("cutlass") = SC_CUTLASS_VERSION;
  module.def("isa", [] { return std::string(isa_name(current_isa())); });
  module.def("available_isas", [] {
    std::vector<std::string> names;
    for (const CpuIsa isa : available_isas()) names.emplace_back(isa_name(isa));
    return names;
  });
  module.def("set_isa", [](const std::string& name) {
    if (!set_isa(name)) throw py::value_error("instruction set not available: " + name);
  });
  module.def("amx", [] { return current_isa() == CpuIsa::kAmx; });
  module.def("threads", [] { return ThreadPool::global().threads(); });
  module.def(
      "set_threads",
      [](int threads) {
        if (threads < 1 || threads > 1024) throw py::value_error("threads must be 1 to 1024");
        ThreadPool::global().resize(threads);
      },
      py::call_guard<py::gil_scoped_release>());
  module.def("limit_calling_thread", &ThreadPool::limit_calling_thread);
}

}  // namespace streamchar::bindings
