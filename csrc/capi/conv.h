// The handle of a convolution.
#pragma once

#include <memory>

#include "capi/checks.h"
#include "kernels/packed_conv.h"

struct sc_conv {
  static constexpr streamchar::capi::Kind kKind = streamchar::capi::Kind::kConv;
  const streamchar::capi::Kind kind = kKind;
  std::shared_ptr<const streamchar::PackedConv> conv;  // shared with the decoders that are made of it
};

namespace streamchar::capi {

inline constexpr int64_t kMaxRowNumbers = 1 << 22;  // of a row of pixels: a thread holds a few rows

}  // namespace streamchar::capi
