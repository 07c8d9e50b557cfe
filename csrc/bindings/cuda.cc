// The CUDA kernels, for tensors in device memory and a raw stream handle.
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings/fused_linear.h"
#include "bindings/istft.h"
#include "kernels/cuda_calls.h"
#include "kernels/fused_linear_plan.h"

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

cuda::KernelPath kernel_path(const std::string& name) {
  if (name == "auto") return cuda::KernelPath::kAuto;
  if (name == "sm80") return cuda::KernelPath::kSm80;
  if (name == "sm90") return cuda::KernelPath::kSm90;
  throw std::invalid_argument("path is auto, sm80 or sm90");
}

KvStorage kv_storage(const std::string& name) {
  if (name == "bfloat16") return KvStorage::kBFloat16;
  if (name == "float8") return KvStorage::kFloat8;
  if (name == "int8") return KvStorage::kInt8;
  throw std::invalid_argument("storage is bfloat16, float8 or int8");
}

// (key, value, rows, moved, shift address or 0, key range or 0, value range or 0)
using DeviceSegment = std::tuple<View, View, int, bool, Address, Address, Address>;
// (tokens, heads, q, moved, weight or 0, bounds, eps, rope or 0, first segment, segments, out, lse or 0)
using DeviceStream = std::tuple<int, int, View, View, Address, std::vector<int32_t>, float, Address, int, int, Address,
                                Address>;

void segment_attention(int head_dim, const std::string& storage, const std::vector<DeviceStream>& streams,
                       const std::vector<DeviceSegment>& segments, Address workspace, int64_t workspace_bytes,
                       Address stream, const std::string& path) {
  if (segments.size() > cuda::kMaxListed) throw std::invalid_argument("at most 40 segments in a call");
  if (streams.size() > cuda::kMaxStreams) throw std::invalid_argument("at most 8 streams in a call");
  cuda::SegmentAttention call{};
  call.head_dim = head_dim;
  call.storage = kv_storage(storage);
  for (const auto& [tokens, heads, q, moved, weight, bounds, eps, rope, first, count, out, lse] : streams) {
    call.streams[call.stream_count++] = {tokens, heads, device_view(q), device_view(moved),
                                         device_norm(weight, bounds, eps), floats(rope), first, count,
                                         reinterpret_cast<void*>(out), writable_floats(lse)};
  }
  for (const auto& [key, value, rows, moved, shift, key_range, value_range] : segments) {
    call.segments[call.segment_count++] = {device_view(key), device_view(value), rows, moved, floats(shift),
                                           floats(key_range), floats(value_range)};
  }
  call.workspace = reinterpret_cast<void*>(workspace);
  call.workspace_bytes = workspace_bytes;
  check(cuda::segment_attention(call, kernel_path(path), reinterpret_cast<void*>(stream)));
}

int64_t attention_workspace(int head_dim, const std::string& storage, const std::string& path) {
  int64_t bytes = 0;
  check(cuda::segment_attention_workspace(head_dim, kv_storage(storage), kernel_path(path), bytes));
  return bytes;
}

void kv_append(int tokens, int heads, int head_dim, const std::string& storage, bool all_heads, const View& k,
               const View& v, Address weight, const std::vector<int32_t>& bounds, float eps, Address rope,
               Address shift, Address key, Address value, Address key_range, Address value_range, bool measure,
               const View& q, Address q_weight, Address query, Address moved, Address moved_shift, Address stream) {
  check(cuda::kv_append({tokens, heads, head_dim, kv_storage(storage), all_heads, device_view(k), device_view(v),
                         device_norm(weight, bounds, eps), floats(rope), floats(shift), reinterpret_cast<void*>(key),
                         reinterpret_cast<void*>(value), writable_floats(key_range), writable_floats(value_range),
                         measure, device_view(q), floats(q_weight), reinterpret_cast<void*>(query),
                         reinterpret_cast<void*>(moved), floats(moved_shift)},
                        reinterpret_cast<void*>(stream)));
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

#if defined(SC_CUTLASS)
void fused_linear(int batch, int tokens, int outputs, int inputs, const std::string& finish, const View& x,
                  Address weight, Address bias, const Gate& gate, const View& residual, const View& y, Address stream,
                  const std::string& path) {
  const cuda::FusedLinear call =
      fused_linear_call(batch, tokens, outputs, inputs, finish, x, weight, bias, gate, residual, y);
  if (const char* why = cuda::fused_linear_refusal(call)) throw std::invalid_argument(why);
  check(cuda::fused_linear(call, kernel_path(path), reinterpret_cast<void*>(stream)));
}
#endif

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
  module.attr("cuda_max_streams") = cuda::kMaxStreams;
  module.attr("cuda_max_listed_segments") = cuda::kMaxListed;
  module.attr("cuda_max_append_heads") = cuda::kMaxAppendHeads;
  module.def("cuda_segment_attention", &segment_attention);
  module.def("cuda_attention_workspace", &attention_workspace);
  module.def("cuda_kv_append", &kv_append);
  module.attr("cuda_max_groups_per_row") = cuda::kMaxGroupsPerRow;
  module.attr("cuda_max_istft_size") = cuda::kMaxInverseFftSize;
  module.def("cuda_adaln_modulate", &adaln_modulate);
  module.def("cuda_gated_residual", &gated_residual);
  module.def("cuda_istft_overlap_add", &istft_overlap_add);
#if defined(SC_CUTLASS)
  module.def("cuda_fused_linear", &fused_linear);
#endif
}

}  // namespace streamchar::bindings
