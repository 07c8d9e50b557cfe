// gated_residual: out[b, t] = x[b, t] + gate[b, t] * update[b, t].
#pragma once

#include "kernels/row_view.h"

namespace streamchar {

struct GatedResidual {
  int batch;
  int tokens;
  int width;
  RowView x;
  RowView gate;
  RowView update;
  float* out;  // (batch, tokens, width) contiguous; may be x or update itself
};

// Uses ThreadPool::global().
void gated_residual_cpu(const GatedResidual& call);

}  // namespace streamchar
