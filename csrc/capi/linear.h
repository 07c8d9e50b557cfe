// The handle of a linear layer.
#pragma once

#include <memory>

#include "capi/checks.h"
#include "kernels/packed_linear.h"

struct sc_linear {
  static constexpr streamchar::capi::Kind kKind = streamchar::capi::Kind::kLinear;
  const streamchar::capi::Kind kind = kKind;
  std::shared_ptr<const streamchar::PackedLinear> linear;  // shared with the chains that are made of it
};
