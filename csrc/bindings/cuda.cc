// The CUDA kernels, for tensors in device memory and a raw stream handle.
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings/istft.h"
#include "kernels/cuda_calls.h"

namespace streamchar::bindings {
namespace {

cuda::TokenView device_view(const View& view) {
  return {reinterpret_cast<const void*>(std::get<0>(view)), std::get<1>(view), std::get<2>(view)};
}

cuda::HeadNorm device_norm(Address weight, const std::vector<int32_t>& bounds, float eps) {
  if (bounds.size() < 2 || bounds.size() > cuda::kMaxGroups + 1) throw std::invalid_argument("1 to 4 token groups");
  cuda::HeadNorm norm{floats(weight), static_cast<int>(bounds.size()) - 1, {}, eps};
  std::copy(bounds.begin(), bounds.end(), norm.bounds);
  return norm;
}

void check(int code) {
  if (code) throw std::runtime_error(std::string("CUDA: ") + cuda::error_text(code));
}

cuda::AttentionPath attention_path(const std::string& name) {
  if (name == "auto") return cuda::AttentionPath::kAuto;
  if (name == "sm80") return cuda::AttentionPath::kSm80;
  if (name == "sm90") return cuda::AttentionPath::kSm90;
  throw std::invalid_argument("path is auto, sm80 or sm90");
}

// (key, value, rows, shift address or 0)
using DeviceSegment = std::tuple<View, View, int, Address>;

void segment_attention(int tokens, int heads, int head_dim, const View& q, Address weight,
                       const std::vector<int32_t>& bounds, float eps, Address rope,
                       const std::vector<DeviceSegment>& segments, Address out, Address lse, Address stream,
                       const std::string& path) {
  if (segments.size() > cuda::kMaxSegments) throw std::invalid_argument("at most 8 segments");
  cuda::SegmentAttention call{};
  call.tokens = tokens;
  call.heads = heads;
  call.head_dim = head_dim;
  call.q = device_view(q);
  call.norm = device_norm(weight, bounds, eps);
  call.rope = floats(rope);
  for (const auto& [key, value, rows, shift] : segments) {
    call.segments[call.segment_count++] = {device_view(key), device_view(value), rows, floats(shift)};
  }
  call.out = reinterpret_cast<void*>(out);
  call.lse = writable_floats(lse);
  check(cuda::segment_attention(call, attention_path(path), reinterpret_cast<void*>(stream)));
}

void kv_append(int tokens, int heads, int head_dim, const View& k, const View& v, Address weight,
               const std::vector<int32_t>& bounds, float eps, Address rope, Address key, Address value,
               Address stream) {
  check(cuda::kv_append({tokens, heads, head_dim, device_view(k), device_view(v), device_norm(weight, bounds, eps),
                         floats(rope), reinterpret_cast<void*>(key), reinterpret_cast<void*>(value)},
                        reinterpret_cast<void*>(stream)));
}

cuda::RowView device_rows(const View& view) {
  return {reinterpret_cast<const void*>(std::get<0>(view)), std::get<1>(view), std::get<2>(view)};
}

cuda::Element element(bool bf16) { return bf16 ? cuda::Element::kBFloat16 : cuda::Element::kFloat32; }

void adaln_modulate(int batch, int tokens, int width, bool bf16, const View& x, const View& shift, const View& scale,
                    float eps, Address out, Address stream) {
  check(cuda::adaln_modulate({batch, tokens, width, element(bf16), device_rows(x), device_rows(shift),
                              device_rows(scale), eps, reinterpret_cast<void*>(out)},
                             reinterpret_cast<void*>(stream)));
}

void gated_residual(int batch, int tokens, int width, bool bf16, const View& x, const View& gate, const View& update,
                    Address out, Address stream) {
  check(cuda::gated_residual({batch, tokens, width, element(bf16), device_rows(x), device_rows(gate),
                              device_rows(update), reinterpret_cast<void*>(out)},
                             reinterpret_cast<void*>(stream)));
}

void istft_overlap_add(int batch, int frame_count, int size, int hop, const SpectrumView& frames, Address window,
                       Address tail, Address weight, float floor, Address samples, Address next_tail,
                       Address next_weight, Address pieces, Address stream) {
  check(cuda::istft_overlap_add(istft_call(batch, frame_count, size, hop, frames, window, tail, weight, floor, samples,
                                           next_tail, next_weight),
                                writable_floats(pieces), reinterpret_cast<void*>(stream)));
}

}  // namespace

void bind_cuda(pybind11::module_& module) {
  module.attr("cuda_max_segments") = cuda::kMaxSegments;
  module.attr("cuda_max_groups") = cuda::kMaxGroups;
  module.attr("cuda_has_sm90a") = bool{SC_SM90A};
  module.def("cuda_segment_attention", &segment_attention);
  module.def("cuda_kv_append", &kv_append);
  module.attr("cuda_max_groups_per_row") = cuda::kMaxGroupsPerRow;
  module.attr("cuda_max_istft_size") = cuda::kMaxInverseFftSize;
  module.def("cuda_adaln_modulate", &adaln_modulate);
  module.def("cuda_gated_residual", &gated_residual);
  module.def("cuda_istft_overlap_add", &istft_overlap_add);
}

}  // namespace streamchar::bindings
