// The handle of a linear layer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "capi/checks.h"
#include "kernels/packed_linear.h"

struct sc_linear {
  static constexpr streamchar::capi::Kind kKind = streamchar::capi::Kind::kLinear;
  const streamchar::capi::Kind kind = kKind;
  std::shared_ptr<const streamchar::PackedLinear> linear;  // shared with the chains that are made of it
};

namespace streamchar::capi {

using SharedLinear = std::shared_ptr<const PackedLinear>;

// A chain's layer of that shape.
SharedLinear chain_layer(const std::string& name, const sc_linear* given, int64_t inputs, int64_t outputs);

}  // namespace streamchar::capi
