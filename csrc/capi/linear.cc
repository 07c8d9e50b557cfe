// Linear layers.
#include <memory>
#include <string>

#include "capi/linear.h"

using namespace streamchar;
using namespace streamchar::capi;

namespace {

constexpr int32_t kMaxInt8Inputs = 1 << 17;  // that 32 bits have room for the sum of

LinearStorage linear_storage(int32_t storage) {
  switch (storage) {
    case SC_F32: return LinearStorage::kFloat32;
    case SC_BF16: return LinearStorage::kBFloat16;
    case SC_INT8: return LinearStorage::kInt8;
  }
  fail(SC_E_UNSUPPORTED, "weights are not packed in storage " + std::to_string(storage), "SC_F32, SC_BF16 or SC_INT8");
}

BatchVector batch_vector(const sc_batch_vector& vector) { return {vector.data, vector.stride}; }

}  // namespace

namespace streamchar::capi {

SharedLinear chain_layer(const std::string& name, const sc_linear* given, int64_t inputs, int64_t outputs) {
  check_pointer(name.c_str(), given);
  const SharedLinear& linear = handle(given).linear;
  const PackedWeights& weights = linear->weights();
  if (weights.inputs != inputs || weights.outputs != outputs) {
    fail(SC_E_INVALID_ARGUMENT,
         name + " is " + std::to_string(weights.inputs) + " to " + std::to_string(weights.outputs) + " channels",
         std::to_string(inputs) + " to " + std::to_string(outputs));
  }
  return linear;
}

}  // namespace streamchar::capi

void sc_linear_apply_call_init(sc_linear_apply_call* call, uint32_t struct_size) {
  sc_linear_apply_call defaults{};
  defaults.rows_per_batch = 1;
  defaults.eps = 1e-5f;
  init_struct(call, struct_size, defaults);
}

sc_status sc_linear_create(const float* weight, const float* bias, int32_t outputs, int32_t inputs, int32_t storage,
                           sc_linear** out) {
  return guarded([&] {
    check_range("outputs", outputs, 1, kMaxWidth);
    const LinearStorage kind = linear_storage(storage);
    check_range("inputs", inputs, 1, kind == LinearStorage::kInt8 ? kMaxInt8Inputs : kMaxWidth);
    check_finite("weight", check_pointer("weight", weight), int64_t{outputs} * inputs);
    if (bias) check_finite("bias", bias, outputs);
    check_pointer("out", out);
    *out = new sc_linear{.linear = std::make_shared<PackedLinear>(weight, bias, outputs, inputs, kind)};
  });
}

void sc_linear_destroy(sc_linear* linear) {
  guarded([&] {
    if (linear) delete &handle(linear);
  });
}

sc_status sc_linear_read(const sc_linear* linear, float* weight) {
  return guarded([&] { handle(linear).linear->read(check_pointer("weight", weight)); });
}

sc_status sc_linear_apply(const sc_linear* linear, const sc_linear_apply_call* given) {
  return guarded([&] {
    const PackedLinear& layer = *handle(linear).linear;
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
