// A fused_linear call from what Python passes.
#pragma once

#include <stdexcept>
#include <string>

#include "bindings/bindings.h"
#include "kernels/fused_linear.h"

namespace streamchar::bindings {

inline cuda::RowView device_rows(const View& view) {
  return {reinterpret_cast<const void*>(std::get<0>(view)), std::get<1>(view), std::get<2>(view)};
}

inline cuda::LinearFinish linear_finish(const std::string& name) {
  if (name == "none") return cuda::LinearFinish::kNone;
  if (name == "gelu_tanh") return cuda::LinearFinish::kGeluTanh;
  if (name == "gated_residual") return cuda::LinearFinish::kGatedResidual;
  throw std::invalid_argument("finish is none, gelu_tanh or gated_residual");
}

// gate: (address or 0, stride of batches); residual: address 0 for none
using Gate = std::tuple<Address, int64_t>;

inline cuda::FusedLinear fused_linear_call(int batch, int tokens, int outputs, int inputs, const std::string& finish,
                                           const View& x, Address weight, Address bias, const Gate& gate,
                                           const View& residual, const View& y) {
  return {batch, tokens, outputs, inputs, linear_finish(finish), device_rows(x),
          reinterpret_cast<const void*>(weight), reinterpret_cast<const void*>(bias),
          reinterpret_cast<const void*>(std::get<0>(gate)), std::get<1>(gate), device_rows(residual),
          reinterpret_cast<void*>(std::get<0>(y)), std::get<1>(y), std::get<2>(y)};
}

}  // namespace streamchar::bindings
