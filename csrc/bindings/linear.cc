// PackedLinear: one layer's packed weights.
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <optional>
#include <tuple>

#include "bindings/bindings.h"
#include "kernels/packed_linear.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

std::shared_ptr<PackedLinear> pack(Address weight, Address bias, int outputs, int inputs, const std::string& name) {
  const LinearStorage storage = name == "int8"   ? LinearStorage::kInt8
                                : name == "bf16" ? LinearStorage::kBFloat16
                                                 : LinearStorage::kFloat32;
  return std::make_shared<PackedLinear>(floats(weight), floats(bias), outputs, inputs, storage);
}

// (address, stride of batches, or of rows for the residual)
using Strided = std::tuple<Address, int64_t>;
// (shift, scale, eps)
using Modulation = std::tuple<Strided, Strided, float>;
// (gate, residual)
using Gating = std::tuple<Strided, Strided>;

BatchVector batch_vector(const Strided& vector) { return {floats(std::get<0>(vector)), std::get<1>(vector)}; }

void apply(const PackedLinear& linear, int rows, Address x, int64_t x_stride, Address y, int64_t y_stride, bool gelu,
           int rows_per_batch, const std::optional<Modulation>& modulation, const std::optional<Gating>& gating) {
  LinearCall call{.rows = rows,
                  .x = floats(x),
                  .x_stride = x_stride,
                  .y = writable_floats(y),
                  .y_stride = y_stride,
                  .activation = gelu ? Activation::kGeluTanh : Activation::kNone,
                  .rows_per_batch = rows_per_batch,
                  .shift = {},
                  .scale = {},
                  .gate = {}};
  if (modulation) {
    const auto& [shift, scale, eps] = *modulation;
    call.shift = batch_vector(shift);
    call.scale = batch_vector(scale);
    call.eps = eps;
  }
  if (gating) {
    const auto& [gate, residual] = *gating;
    call.gate = batch_vector(gate);
    call.residual = floats(std::get<0>(residual));
    call.residual_stride = std::get<1>(residual);
  }
  packed_linear_cpu(linear, call);
}

}  // namespace

void bind_linear(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<PackedLinear, std::shared_ptr<PackedLinear>>(module, "PackedLinear")
      .def(py::init(&pack), NoGil())
      .def("apply", &apply, NoGil())
      .def("read", [](const PackedLinear& linear, Address weight) { linear.read(writable_floats(weight)); }, NoGil())
      .def_property_readonly("nbytes", &PackedLinear::bytes);
}

}  // namespace streamchar::bindings
