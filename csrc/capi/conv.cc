// Convolutions.
#include <memory>
#include <string>

#include "capi/conv.h"

using namespace streamchar;
using namespace streamchar::capi;

namespace {

constexpr int32_t kMaxRowProducts = 66000;  // of a filter's row: 32 bits have room for their sum

ConvShape read_shape(const sc_conv_params& params) {
  if (params.size != 1 && params.size != 3) {
    fail(SC_E_UNSUPPORTED, "size is " + std::to_string(params.size), "1 or 3");
  }
  check_range("inputs", params.inputs, 1, kMaxRowProducts / params.size);
  check_range("channels", params.channels, 1, kMaxWidth);
  check_range("frames", params.frames, 1, kMaxSmall);
  check_range("shuffle", params.shuffle, 1, kMaxSmall);
  const int64_t parts = int64_t{params.frames} * params.shuffle * params.shuffle;
  check_range("frames * shuffle * shuffle * channels", parts * params.channels, 1, kMaxWidth);
  return {.inputs = params.inputs,
          .channels = params.channels,
          .size = params.size,
          .frames = params.frames,
          .shuffle = params.shuffle};
}

// Fills in the call's inputs.
void read_inputs(const sc_conv_apply_call& given, int32_t channels, ConvCall& call) {
  check_range("input_count", given.input_count, 1, kMaxConvInputs);
  check_pointer("inputs", given.inputs);
  int64_t total = 0;
  for (int32_t i = 0; i < given.input_count; ++i) {
    const sc_conv_input& input = given.inputs[i];
    check_range("input.channels", input.channels, 1, channels);
    call.inputs[i] = {check_pointer("input.data", input.data), input.channels, input.picture_stride};
    total += input.channels;
  }
  if (total != channels) {
    fail(SC_E_INVALID_ARGUMENT, "the inputs have " + std::to_string(total) + " channels",
         std::to_string(channels) + " in all");
  }
}

}  // namespace

void sc_conv_params_init(sc_conv_params* params, uint32_t struct_size) {
  sc_conv_params defaults{};
  defaults.size = defaults.frames = defaults.shuffle = 1;
  init_struct(params, struct_size, defaults);
}

void sc_conv_apply_call_init(sc_conv_apply_call* call, uint32_t struct_size) { init_struct(call, struct_size, {}); }

sc_status sc_conv_create(const sc_conv_params* given, sc_conv** out) {
  return guarded([&] {
    const auto params = read_struct("params", given);
    const ConvShape shape = read_shape(params);
    const int64_t taps = int64_t{shape.inputs} * shape.size * shape.size;
    check_finite("weight", check_pointer("weight", params.weight), shape.outputs() * taps);
    if (params.bias) check_finite("bias", params.bias, shape.outputs());
    check_pointer("out", out);
    *out = new sc_conv{.conv = std::make_shared<PackedConv>(params.weight, params.bias, shape)};
  });
}

void sc_conv_destroy(sc_conv* conv) {
  guarded([&] {
    if (conv) delete &handle(conv);
  });
}

sc_status sc_conv_read(const sc_conv* conv, float* weight) {
  return guarded([&] { handle(conv).conv->read(check_pointer("weight", weight)); });
}

sc_status sc_conv_apply(const sc_conv* conv, const sc_conv_apply_call* given) {
  return guarded([&] {
    const PackedConv& layer = *handle(conv).conv;
    const auto call = read_struct("call", given);
    check_range("batch", call.batch, 1, kMaxCount);
    check_range("height", call.height, 1, kMaxCount);
    check_range("width", call.width, 1, kMaxCount);
    check_range("batch * height", int64_t{call.batch} * call.height, 1, kMaxCount);
    check_range("batch * height * width", int64_t{call.batch} * call.height * call.width, 1, kMaxCount);
    check_range("width * inputs", int64_t{call.width} * layer.filters().shape.inputs, 1, kMaxRowNumbers);
    check_range("silu", call.silu, 0, 1);
    ConvCall kernel_call{.batch = call.batch,
                         .height = call.height,
                         .width = call.width,
                         .inputs = {},
                         .input_count = call.input_count,
                         .silu = call.silu != 0,
                         .out = check_pointer("out", call.out),
                         .added = call.added,
                         .added_stride = call.added_stride};
    read_inputs(call, layer.filters().shape.inputs, kernel_call);
    packed_conv_cpu(layer, kernel_call);
  });
}
