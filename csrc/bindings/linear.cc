// PackedLinear: one layer's packed weights.
#include <pybind11/pybind11.h>

#include <memory>

#include "bindings/bindings.h"
#include "kernels/packed_linear.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

std::unique_ptr<PackedLinear> pack(Address weight, Address bias, int outputs, int inputs, bool int8) {
  const LinearStorage storage = int8 ? LinearStorage::kInt8 : LinearStorage::kBFloat16;
  return std::make_unique<PackedLinear>(floats(weight), floats(bias), outputs, inputs, storage);
}

void apply(const PackedLinear& linear, int rows, Address x, int64_t x_stride, Address y, int64_t y_stride, bool gelu) {
  packed_linear_cpu(linear, {.rows = rows,
                             .x = floats(x),
                             .x_stride = x_stride,
                             .y = writable_floats(y),
                             .y_stride = y_stride,
                             .activation = gelu ? Activation::kGeluTanh : Activation::kNone});
}

}  // namespace

void bind_linear(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<PackedLinear>(module, "PackedLinear")
      .def(py::init(&pack), NoGil())
      .def("apply", &apply, NoGil())
      .def("read", [](const PackedLinear& linear, Address weight) { linear.read(writable_floats(weight)); }, NoGil())
      .def_property_readonly("nbytes", &PackedLinear::bytes);
}

}  // namespace streamchar::bindings
