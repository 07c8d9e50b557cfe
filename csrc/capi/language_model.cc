// A language model's layers.
#include "networks/language_model.h"

#include <string>
#include <utility>
#include <vector>

#include "capi/linear.h"
#include "capi/tokens.h"

using namespace streamchar;
using namespace streamchar::capi;

struct sc_language_model {
  static constexpr Kind kKind = Kind::kLanguageModel;
  const Kind kind = kKind;
  LanguageModel model;
};

namespace {

DecoderLayer decoder_layer(const std::string& name, const sc_decoder_layer& given,
                           const sc_language_model_params& params) {
  const int64_t width = params.width, dim = params.head_dim, queries = int64_t{params.heads} * dim;
  check_pointer((name + ".down").c_str(), given.down);
  const int64_t hidden = handle(given.down).linear->weights().inputs;
  return {.qkv = chain_layer(name + ".qkv", given.qkv, width, queries + 2 * params.kv_heads * dim),
          .out = chain_layer(name + ".out", given.out, queries, width),
          .gate_up = chain_layer(name + ".gate_up", given.gate_up, width, 2 * hidden),
          .down = chain_layer(name + ".down", given.down, hidden, width),
          .input_norm = copied_vector(name + ".input_norm", given.input_norm, width),
          .hidden_norm = copied_vector(name + ".hidden_norm", given.hidden_norm, width),
          .q_norm = copied_vector(name + ".q_norm", given.q_norm, dim),
          .k_norm = copied_vector(name + ".k_norm", given.k_norm, dim)};
}

}  // namespace

void sc_language_model_params_init(sc_language_model_params* params, uint32_t struct_size) {
  sc_language_model_params defaults{};
  defaults.eps = 1e-6f;
  init_struct(params, struct_size, defaults);
}

void sc_language_model_run_call_init(sc_language_model_run_call* call, uint32_t struct_size) {
  init_struct(call, struct_size, {});
}

sc_status sc_language_model_create(const sc_language_model_params* given, sc_language_model** out) {
  return guarded([&] {
    const auto params = read_struct("params", given);
    check_range("width", params.width, 1, kMaxWidth);
    check_heads(params.heads, params.head_dim);
    check_range("kv_heads", params.kv_heads, 1, params.heads);
    if (params.heads % params.kv_heads) {
      fail(SC_E_INVALID_ARGUMENT, std::to_string(params.heads) + " heads share " + std::to_string(params.kv_heads),
           "heads in a multiple of kv_heads");
    }
    check_eps(params.eps);
    check_range("layer_count", params.layer_count, 1, kMaxSmall);
    check_pointer("layers", params.layers);
    std::vector<DecoderLayer> layers;
    for (int32_t i = 0; i < params.layer_count; ++i) {
      layers.push_back(decoder_layer("layers[" + std::to_string(i) + "]", params.layers[i], params));
    }
    std::vector<float> final_norm = copied_vector("final_norm", params.final_norm, params.width);
    check_pointer("out", out);
    *out = new sc_language_model{.model = LanguageModel(params.heads, params.kv_heads, params.head_dim, params.eps,
                                                        std::move(layers), std::move(final_norm))};
  });
}

void sc_language_model_destroy(sc_language_model* model) {
  guarded([&] {
    if (model) delete &handle(model);
  });
}

sc_status sc_language_model_run(const sc_language_model* model, const sc_language_model_run_call* given) {
  return guarded([&] {
    const LanguageModel& self = handle(model).model;
    const auto call = read_struct("call", given);
    check_range("batch", call.batch, 1, kMaxCount);
    check_range("tokens", call.tokens, 1, kMaxCount);
    check_range("batch * tokens", int64_t{call.batch} * call.tokens, 1, kMaxCount);
    self.run({.batch = call.batch,
              .tokens = call.tokens,
              .x = check_pointer("x", call.x),
              .present = call.present,
              .rope = call.rope,
              .out = check_pointer("out", call.out)});
  });
}
