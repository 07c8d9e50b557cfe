// adaln_modulate and gated_residual on the CPU.
#include "bindings/bindings.h"
#include "kernels/adaln_modulate.h"
#include "kernels/gated_residual.h"

namespace streamchar::bindings {
namespace {

// A View's strides are (batch, token) here.
RowView row_view(const View& view) { return {floats(std::get<0>(view)), std::get<1>(view), std::get<2>(view)}; }

void adaln_modulate(int batch, int tokens, int width, const View& x, const View& shift, const View& scale, float eps,
                    Address out) {
  adaln_modulate_cpu({batch, tokens, width, row_view(x), row_view(shift), row_view(scale), eps, writable_floats(out)});
}

void gated_residual(int batch, int tokens, int width, const View& x, const View& gate, const View& update,
                    Address out) {
  gated_residual_cpu({batch, tokens, width, row_view(x), row_view(gate), row_view(update), writable_floats(out)});
}

}  // namespace

void bind_rows(pybind11::module_& module) {
  using NoGil = pybind11::call_guard<pybind11::gil_scoped_release>;
  module.def("adaln_modulate", &adaln_modulate, NoGil());
  module.def("gated_residual", &gated_residual, NoGil());
}

}  // namespace streamchar::bindings
