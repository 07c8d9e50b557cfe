// Rows of a (batch, tokens, width) tensor of float32.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace streamchar {

// Channels are contiguous; strides count elements. A stride of 0 shares one row among all batches or tokens.
struct RowView {
  const float* data;
  int64_t batch_stride;
  int64_t token_stride;

  SC_HOST_DEVICE const float* row(int batch, int token) const {
    return data + batch * batch_stride + token * token_stride;
  }
};

}  // namespace streamchar
