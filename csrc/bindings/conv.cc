// PackedConv: one convolution's packed weights.
#include <pybind11/stl.h>

#include <memory>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"
#include "kernels/packed_conv.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

std::shared_ptr<PackedConv> pack(Address weight, Address bias, int inputs, int channels, int size, int frames,
                                 int shuffle) {
  const ConvShape shape{
      .inputs = inputs, .channels = channels, .size = size, .frames = frames, .shuffle = shuffle};
  return std::make_shared<PackedConv>(floats(weight), floats(bias), shape);
}

// (address, channels, stride of pictures)
using Input = std::tuple<Address, int, int64_t>;

void apply(const PackedConv& conv, int batch, int height, int width, const std::vector<Input>& inputs, bool silu,
           Address out, Address added, int64_t added_stride) {
  ConvCall call{.batch = batch,
                .height = height,
                .width = width,
                .inputs = {},
                .input_count = static_cast<int>(inputs.size()),
                .silu = silu,
                .out = writable_floats(out),
                .added = floats(added),
                .added_stride = added_stride};
  for (int i = 0; i < call.input_count; ++i) {
    const auto& [data, channels, stride] = inputs[i];
    call.inputs[i] = {floats(data), channels, stride};
  }
  packed_conv_cpu(conv, call);
}

}  // namespace

void bind_conv(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  module.attr("max_conv_inputs") = kMaxConvInputs;
  py::class_<PackedConv, std::shared_ptr<PackedConv>>(module, "PackedConv")
      .def(py::init(&pack), NoGil())
      .def("apply", &apply, NoGil())
      .def("read", [](const PackedConv& conv, Address weight) { conv.read(writable_floats(weight)); }, NoGil())
      .def_property_readonly("nbytes", &PackedConv::bytes);
}

}  // namespace streamchar::bindings
