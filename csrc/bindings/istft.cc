// istft_overlap_add on the CPU.
#include "bindings/istft.h"

namespace streamchar::bindings {
namespace {

void istft_overlap_add(int batch, int frame_count, int size, int hop, const SpectrumView& frames, Address window,
                       Address tail, Address weight, float floor, Address samples, Address next_tail,
                       Address next_weight) {
  istft_overlap_add_cpu(istft_call(batch, frame_count, size, hop, frames, window, tail, weight, floor, samples,
                                   next_tail, next_weight));
}

}  // namespace

void bind_istft(pybind11::module_& module) {
  module.def("istft_size_supported", &istft_size_supported);
  module.def("istft_overlap_add", &istft_overlap_add, pybind11::call_guard<pybind11::gil_scoped_release>());
}

}  // namespace streamchar::bindings
