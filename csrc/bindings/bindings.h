// One function per file of this folder; module.cc lists them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>
#include <vector>

#include "kernels/segment_attention.h"

namespace streamchar::bindings {

// Tensors cross as addresses and strides: the module knows no torch. Shapes, dtypes and devices are checked
// by streamchar_rt.ops before the call.
using Address = std::uintptr_t;

inline const float* floats(Address address) { return reinterpret_cast<const float*>(address); }
inline float* writable_floats(Address address) { return reinterpret_cast<float*>(address); }
inline const int64_t* integers(Address address) { return reinterpret_cast<const int64_t*>(address); }
inline std::vector<float> copied(Address address, int64_t count) { return {floats(address), floats(address) + count}; }

// (address, token stride, head stride); for RowView (address, batch stride, token stride)
using View = std::tuple<Address, int64_t, int64_t>;

inline TokenView token_view(const View& view) {
  return {floats(std::get<0>(view)), std::get<1>(view), std::get<2>(view)};
}

inline HeadNorm head_norm(Address weight, const std::vector<int32_t>& bounds, float eps) {
  return {floats(weight), bounds.data(), static_cast<int>(bounds.size()) - 1, eps};
}

void bind_context(pybind11::module_& module);
void bind_networks(pybind11::module_& module);
void bind_language_model(pybind11::module_& module);
void bind_transcript_reader(pybind11::module_& module);
void bind_condition_head(pybind11::module_& module);
void bind_condition_encoder(pybind11::module_& module);
void bind_vocoder_layers(pybind11::module_& module);
void bind_kernels(pybind11::module_& module);
void bind_rows(pybind11::module_& module);
void bind_istft(pybind11::module_& module);
void bind_linear(pybind11::module_& module);
void bind_conv(pybind11::module_& module);
void bind_picture(pybind11::module_& module);
void bind_video_decoder(pybind11::module_& module);
void bind_machine(pybind11::module_& module);
void bind_layout(pybind11::module_& module);
void bind_cuda(pybind11::module_& module);  // only in builds with CUDA

}  // namespace streamchar::bindings
