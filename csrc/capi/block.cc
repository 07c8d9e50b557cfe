// What surrounds attention in a block: adaLN, gated residuals, linear layers.
#include <cmath>
#include <string>

#include "capi/checks.h"
#include "kernels/adaln_modulate.h"
#include "kernels/gated_residual.h"
#include "kernels/packed_linear.h"

using namespace streamchar;
using namespace streamchar::capi;

struct sc_linear {
  static constexpr Kind kKind = Kind::kLinear;
  const Kind kind = kKind;
  PackedLinear linear;
};

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

void check_eps(float eps) {
  if (!(eps > 0)) fail(SC_E_INVALID_ARGUMENT, "eps is not positive", "1e-5");
}

void check_finite(const char* name, const float* data, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(data[i])) {
      fail(SC_E_INVALID_ARGUMENT, std::string(name) + "[" + std::to_string(i) + "] is not finite",
           "a model that is not damaged");
    }
  }
}

BatchVector batch_vector(const sc_batch_vector& vector) { return {vector.data, vector.stride}; }

}  // namespace

void sc_adaln_modulate_call_init(sc_adaln_modulate_call* call, uint32_t struct_size) {
  sc_adaln_modulate_call defaults{};
  defaults.eps = 1e-5f;
  init_struct(call, struct_size, defaults);
}

void sc_gated_residual_call_init(sc_gated_residual_call* call, uint32_t struct_size) {
  init_struct(call, struct_size, {});
}

void sc_linear_apply_call_init(sc_linear_apply_call* call, uint32_t struct_size) {
  sc_linear_apply_call defaults{};
  defaults.rows_per_batch = 1;
  defaults.eps = 1e-5f;
  init_struct(call, struct_size, defaults);
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

sc_status sc_linear_create(const float* weight, const float* bias, int32_t outputs, int32_t inputs, int32_t storage,
                           sc_linear** out) {
  return guarded([&] {
    check_range("outputs", outputs, 1, kMaxWidth);
    check_range("inputs", inputs, 1, kMaxWidth);
    if (storage != SC_BF16 && storage != SC_INT8) {
      fail(SC_E_UNSUPPORTED, "weights are not packed in storage " + std::to_string(storage), "SC_BF16 or SC_INT8");
    }
    check_finite("weight", check_pointer("weight", weight), int64_t{outputs} * inputs);
    if (bias) check_finite("bias", bias, outputs);
    const LinearStorage kind = storage == SC_INT8 ? LinearStorage::kInt8 : LinearStorage::kBFloat16;
    *check_pointer("out", out) = new sc_linear{.linear = PackedLinear(weight, bias, outputs, inputs, kind)};
  });
}

void sc_linear_destroy(sc_linear* linear) {
  guarded([&] {
    if (linear) delete &handle(linear);
  });
}

sc_status sc_linear_read(const sc_linear* linear, float* weight) {
  return guarded([&] { handle(linear).linear.read(check_pointer("weight", weight)); });
}

sc_status sc_linear_apply(const sc_linear* linear, const sc_linear_apply_call* given) {
  return guarded([&] {
    const PackedLinear& layer = handle(linear).linear;
    const auto call = read_struct("call", given);
    check_range("rows", call.rows, 1, kMaxCount);
    check_range("rows_per_batch", call.rows_per_batch, 1, kMaxCount);
    check_range("activation", call.activation, SC_NO_ACTIVATION, SC_GELU_TANH);
    if (!call.shift.data != !call.scale.data) {
      fail(SC_E_INVALID_ARGUMENT, "shift and scale are not given together", "both or neither");
    }
    if (!call.gate.data != !call.residual) {
      fail(SC_E_INVALID_ARGUMENT, "gate and residual are not given together", "both or neither");
    }
    if (call.shift.data) check_eps(call.eps);
    packed_linear_cpu(layer, {.rows = call.rows,
                              .x = check_pointer("x", call.x),
                              .x_stride = call.x_stride,
                              .y = check_pointer("y", call.y),
                              .y_stride = call.y_stride,
                              .activation = call.activation ? Activation::kGeluTanh : Activation::kNone,
                              .rows_per_batch = call.rows_per_batch,
                              .shift = batch_vector(call.shift),
                              .scale = batch_vector(call.scale),
                              .eps = call.eps,
                              .gate = batch_vector(call.gate),
                              .residual = call.residual,
                              .residual_stride = call.residual_stride});
  });
}
