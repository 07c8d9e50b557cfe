// The handle of what reads the parts' movement.
#pragma once

#include <memory>

#include "capi/checks.h"
#include "networks/part_motion.h"

struct sc_part_motion {
  static constexpr streamchar::capi::Kind kKind = streamchar::capi::Kind::kPartMotion;
  const streamchar::capi::Kind kind = kKind;
  std::shared_ptr<const streamchar::PartMotion> motion;  // shared with the decoders that are made of it
};

namespace streamchar::capi {

// Sides of a latent.
void check_latent(int32_t height, int32_t width);

}  // namespace streamchar::capi
