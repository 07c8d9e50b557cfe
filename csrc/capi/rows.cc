// What surrounds attention in a block, row by row: adaLN and gated residuals.
#include "capi/checks.h"
#include "kernels/adaln_modulate.h"
#include "kernels/gated_residual.h"

using namespace streamchar;
using namespace streamchar::capi;

namespace {

RowView row_view(const char* name, const sc_row_view& view) {
  return {check_pointer(name, view.data), view.batch_stride, view.token_stride};
}

void check_rows(int32_t batch, int32_t tokens, int32_t width) {
  check_range("batch", batch, 1, kMaxCount);
  check_range("tokens", tokens, 1, kMaxCount);
  check_range("width", width, 1, kMaxWidth);
  check_range("batch * tokens", int64_t{batch} * tokens, 1, kMaxCount);
}

}  // namespace

void sc_adaln_modulate_call_init(sc_adaln_modulate_call* call, uint32_t struct_size) {
  sc_adaln_modulate_call defaults{};
  defaults.eps = 1e-5f;
  init_struct(call, struct_size, defaults);
}

void sc_gated_residual_call_init(sc_gated_residual_call* call, uint32_t struct_size) {
  init_struct(call, struct_size, {});
}

sc_status sc_adaln_modulate(const sc_adaln_modulate_call* given) {
  return guarded([&] {
    const auto call = read_struct("call", given);
    check_rows(call.batch, call.tokens, call.width);
    check_eps(call.eps);
    adaln_modulate_cpu({call.batch, call.tokens, call.width, row_view("x", call.x), row_view("shift", call.shift),
                        row_view("scale", call.scale), call.eps, check_pointer("out", call.out)});
  });
}

sc_status sc_gated_residual(const sc_gated_residual_call* given) {
  return guarded([&] {
    const auto call = read_struct("call", given);
    check_rows(call.batch, call.tokens, call.width);
    gated_residual_cpu({call.batch, call.tokens, call.width, row_view("x", call.x), row_view("gate", call.gate),
                        row_view("update", call.update), check_pointer("out", call.out)});
  });
}
