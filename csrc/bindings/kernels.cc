// The kernels without a cache: keys and values as plain tensors.
#include "bindings/bindings.h"

#include <pybind11/stl.h>

#include "kernels/aligned_memory.h"
#include "kernels/kv_append.h"

namespace streamchar::bindings {
namespace {

// (key, value, rows, shift address or 0); keys and values (rows, heads, head_dim)
using PlainSegment = std::tuple<View, View, int, Address>;

void segment_attention(int tokens, int heads, int head_dim, const View& q, Address weight,
                       const std::vector<int32_t>& bounds, float eps, Address rope,
                       const std::vector<PlainSegment>& plain, Address out, Address lse) {
  int64_t elements = 0;
  for (const auto& [key, value, rows, shift] : plain) {
    elements += PanelLayout{heads, head_dim, rows}.layer_elements();
  }
  const AlignedMemory panels(elements * static_cast<int64_t>(sizeof(float)));
  std::vector<PanelSegment> segments;
  auto* next = static_cast<float*>(panels.data());
  for (const auto& [key, value, rows, shift] : plain) {
    kv_append_cpu({.tokens = rows,
                   .heads = heads,
                   .head_dim = head_dim,
                   .type = KvType::kFloat32,
                   .k = token_view(key),
                   .v = token_view(value),
                   .norm = {},
                   .rope = nullptr,
                   .panels = next,
                   .capacity = rows});
    segments.push_back({next, rows, rows, floats(shift)});
    next += PanelLayout{heads, head_dim, rows}.layer_elements();
  }
  segment_attention_cpu({.tokens = tokens,
                         .heads = heads,
                         .head_dim = head_dim,
                         .type = KvType::kFloat32,
                         .q = token_view(q),
                         .norm = head_norm(weight, bounds, eps),
                         .rope = floats(rope),
                         .segments = segments.data(),
                         .segment_count = static_cast<int>(segments.size()),
                         .out = writable_floats(out),
                         .lse = writable_floats(lse)});
}

}  // namespace

void bind_kernels(pybind11::module_& module) {
  module.def("cpu_head_dim_supported", &cpu_head_dim_supported);
  module.def("segment_attention", &segment_attention, pybind11::call_guard<pybind11::gil_scoped_release>());
}

}  // namespace streamchar::bindings
