// LanguageModel: a Qwen3 model's layers.
#include "networks/language_model.h"

#include <pybind11/stl.h>

#include <memory>
#include <tuple>
#include <vector>

#include "bindings/bindings.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

using Linear = std::shared_ptr<PackedLinear>;
// (qkv, out, gate_up, down, input norm, hidden norm, q norm, k norm)
using LayerTuple = std::tuple<Linear, Linear, Linear, Linear, Address, Address, Address, Address>;

std::shared_ptr<LanguageModel> make(int heads, int kv_heads, int head_dim, int width, float eps,
                                    const std::vector<LayerTuple>& given, Address final_norm) {
  std::vector<DecoderLayer> layers;
  for (const auto& [qkv, out, gate_up, down, input_norm, hidden_norm, q_norm, k_norm] : given) {
    layers.push_back({qkv, out, gate_up, down, copied(input_norm, width), copied(hidden_norm, width),
                      copied(q_norm, head_dim), copied(k_norm, head_dim)});
  }
  return std::make_shared<LanguageModel>(heads, kv_heads, head_dim, eps, std::move(layers), copied(final_norm, width));
}

void run(const LanguageModel& model, int batch, int tokens, Address x, Address present, Address rope, Address out) {
  model.run({.batch = batch,
             .tokens = tokens,
             .x = floats(x),
             .present = reinterpret_cast<const uint8_t*>(present),
             .rope = floats(rope),
             .out = writable_floats(out)});
}

}  // namespace

void bind_language_model(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<LanguageModel, std::shared_ptr<LanguageModel>>(module, "LanguageModel")
      .def(py::init(&make))
      .def("run", &run, NoGil());
}

}  // namespace streamchar::bindings
