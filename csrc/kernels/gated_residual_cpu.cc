#include "kernels/gated_residual.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/row_items.h"

namespace streamchar {

void gated_residual_cpu(const GatedResidual& call) {
  auto* const row = cpu_kernels().gated_row;
  for_each_row(call.batch, call.tokens, call.width, [&](int batch, int token) noexcept { row(call, batch, token); });
}

}  // namespace streamchar
