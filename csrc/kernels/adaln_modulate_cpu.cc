#include "kernels/adaln_modulate.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/row_items.h"

namespace streamchar {

void adaln_modulate_cpu(const AdalnModulate& call) {
  auto* const row = cpu_kernels().adaln_row;
  for_each_row(call.batch, call.tokens, call.width, [&](int batch, int token) noexcept { row(call, batch, token); });
}

}  // namespace streamchar
