// adaln_modulate and gated_residual of one row, for the instruction set of this translation unit.
#pragma once

#include "kernels/adaln_modulate.h"
#include "kernels/cpu/modulate_row.h"
#include "kernels/gated_residual.h"

namespace streamchar::SC_ISA {

SC_INLINE void adaln_row_any(const AdalnModulate& call, int batch, int token) {
  modulate_row(call.x.row(batch, token), call.shift.row(batch, token), call.scale.row(batch, token), call.width,
               call.eps, call.out + (int64_t{batch} * call.tokens + token) * call.width);
}

SC_INLINE void gated_row_any(const GatedResidual& call, int batch, int token) {
  const float* x = call.x.row(batch, token);
  const float* gate = call.gate.row(batch, token);
  const float* update = call.update.row(batch, token);
  float* out = call.out + (int64_t{batch} * call.tokens + token) * call.width;
  const int whole = call.width - call.width % kLanes;
  for (int d = 0; d < whole; d += kLanes) store(out + d, fma(load(gate + d), load(update + d), load(x + d)));
  for (int d = whole; d < call.width; ++d) out[d] = x[d] + gate[d] * update[d];
}

}  // namespace streamchar::SC_ISA
