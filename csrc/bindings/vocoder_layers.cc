// VocoderLayers: the vocoder's layers, from mel frames to what becomes spectra.
#include "networks/vocoder_layers.h"

#include <pybind11/stl.h>

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

using Linear = std::shared_ptr<PackedLinear>;
// (shift, scale)
using Norm = std::pair<Address, Address>;
// (depthwise weight, depthwise bias, norm, expand, contract, scale)
using BlockTuple = std::tuple<Address, Address, Norm, Linear, Linear, Address>;

std::unique_ptr<VocoderLayers> make(int taps, int width, Linear embed, const Norm& embed_norm,
                                    const std::vector<BlockTuple>& given, const Norm& final_norm, Linear head) {
  const auto norm = [&](const Norm& addresses) {
    return ShiftedNorm{copied(addresses.first, width), copied(addresses.second, width)};
  };
  VocoderParts parts{.taps = taps,
                     .embed = std::move(embed),
                     .embed_norm = norm(embed_norm),
                     .blocks = {},
                     .final_norm = norm(final_norm),
                     .head = std::move(head)};
  for (const auto& [weight, bias, own, expand, contract, scale] : given) {
    parts.blocks.push_back({copied(weight, int64_t{taps} * width), copied(bias, width), norm(own), expand, contract,
                            copied(scale, width)});
  }
  return std::make_unique<VocoderLayers>(std::move(parts));
}

void run(const VocoderLayers& layers, int streams, int frames, int past, Address mel, Address inputs,
         const std::vector<Address>& memories, Address out, Address next_inputs,
         const std::vector<Address>& next_memories) {
  std::vector<const float*> given;
  std::vector<float*> next;
  for (const Address memory : memories) given.push_back(floats(memory));
  for (const Address memory : next_memories) next.push_back(writable_floats(memory));
  layers.run({.streams = streams,
              .frames = frames,
              .past = past,
              .mel = floats(mel),
              .inputs = floats(inputs),
              .memories = given.data(),
              .out = writable_floats(out),
              .next_inputs = writable_floats(next_inputs),
              .next_memories = next.data()});
}

}  // namespace

void bind_vocoder_layers(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<VocoderLayers>(module, "VocoderLayers").def(py::init(&make)).def("run", &run, NoGil());
}

}  // namespace streamchar::bindings
