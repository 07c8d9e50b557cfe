// Turning a channel pair, for host and device.
#pragma once

#include "kernels/host_device.h"

namespace streamchar {

struct Pair {
  float x;
  float y;
};

// (x, y) turned by an angle with this cosine and sine; also what composes two rotations.
SC_HOST_DEVICE Pair rotate_pair(Pair a, Pair cos_sin) {
  return {a.x * cos_sin.x - a.y * cos_sin.y, a.x * cos_sin.y + a.y * cos_sin.x};
}

}  // namespace streamchar
