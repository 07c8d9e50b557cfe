// adaln_modulate: layer norm without weights, then a shift and a scale (adaLN).
//
//   out[b, t] = (x[b, t] - mean) / sqrt(variance + eps) * (1 + scale[b, t]) + shift[b, t]
// with mean and (biased) variance over the row's channels.
#pragma once

#include "kernels/row_view.h"

namespace streamchar {

struct AdalnModulate {
  int batch;
  int tokens;
  int width;
  RowView x;
  RowView shift;
  RowView scale;
  float eps;
  float* out;  // (batch, tokens, width) contiguous; may be x itself
};

// Uses ThreadPool::global(). A row's result depends on that row alone.
void adaln_modulate_cpu(const AdalnModulate& call);

}  // namespace streamchar
