// ConditionHead: the condition head's layers and the pointer.
#include "networks/condition_head.h"

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
// (qkv, self_out, query, memory, cross_out, expand, contract, and the norms of the three parts)
using LayerTuple =
    std::tuple<Linear, Linear, Linear, Linear, Linear, Linear, Linear, Norm, Norm, Norm>;

std::unique_ptr<ConditionHead> make(int heads, int head_dim, Linear noisy, const std::vector<LayerTuple>& given,
                                    const Norm& final_norm, Linear pointer, Linear offset) {
  const auto norm = [width = heads * head_dim](const Norm& addresses) {
    return ShiftedNorm{copied(addresses.first, width), copied(addresses.second, width)};
  };
  ConditionHeadParts parts{.heads = heads,
                           .head_dim = head_dim,
                           .noisy = std::move(noisy),
                           .layers = {},
                           .final_norm = norm(final_norm),
                           .pointer = std::move(pointer),
                           .offset = std::move(offset)};
  for (const auto& [qkv, self_out, query, memory, cross_out, expand, contract, self, cross, hidden] : given) {
    parts.layers.push_back({qkv, self_out, query, memory, cross_out, expand, contract, norm(self), norm(cross),
                            norm(hidden)});
  }
  return std::make_unique<ConditionHead>(std::move(parts));
}

void run(const ConditionHead& head, int streams, int slots, int places, int window, int memory_tokens, Address noisy,
         Address base, Address memory, Address keys, Address padding, Address logits, Address offset) {
  head.run({.streams = streams,
            .slots = slots,
            .places = places,
            .window = window,
            .memory_tokens = memory_tokens,
            .noisy = floats(noisy),
            .base = floats(base),
            .memory = floats(memory),
            .keys = floats(keys),
            .padding = reinterpret_cast<const uint8_t*>(padding),
            .logits = writable_floats(logits),
            .offset = writable_floats(offset)});
}

}  // namespace

void bind_condition_head(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<ConditionHead>(module, "ConditionHead").def(py::init(&make)).def("run", &run, NoGil());
}

}  // namespace streamchar::bindings
