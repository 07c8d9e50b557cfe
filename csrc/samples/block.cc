// One block of a diffusion transformer from C++: adaLN, attention over a cached chunk, gated residual, feed-forward.
// Compared with the same block in double precision.
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <streamchar/streamchar.h>

namespace {

constexpr int kHeads = 2, kDim = 64, kWidth = kHeads * kDim, kHidden = 256, kTokens = 10, kPast = 12;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;

void check(sc_status status) {
  if (status == SC_OK) return;
  std::string message(sc_last_error_message(nullptr, 0) + 1, '\0');
  sc_last_error_message(message.data(), message.size());
  throw std::runtime_error(std::string(sc_status_name(status)) + ": " + message.c_str());
}

struct Destroy {
  void operator()(sc_context* context) const { sc_context_destroy(context); }
  void operator()(sc_linear* linear) const { sc_linear_destroy(linear); }
};
using Context = std::unique_ptr<sc_context, Destroy>;

Floats normal(std::size_t count, double size = 1.0) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> draw(0.0f, static_cast<float>(size));
  Floats values(count);
  for (float& value : values) value = draw(generator);
  return values;
}

struct Linear {
  int outputs, inputs;
  std::unique_ptr<sc_linear, Destroy> packed;
  Doubles weight;  // as it is multiplied

  Linear(int outputs, int inputs) : outputs(outputs), inputs(inputs) {
    Floats values = normal(std::size_t(outputs) * inputs, 1 / std::sqrt(inputs));
    sc_linear* made = nullptr;
    check(sc_linear_create(values.data(), nullptr, outputs, inputs, SC_BF16, &made));
    packed.reset(made);
    check(sc_linear_read(made, values.data()));
    weight.assign(values.begin(), values.end());
  }
  sc_linear_apply_call call(const float* x, float* y) const {
    sc_linear_apply_call call;
    sc_linear_apply_call_init(&call, sizeof call);
    call.rows = call.rows_per_batch = kTokens;
    call.x = x, call.x_stride = inputs, call.y = y, call.y_stride = outputs;
    return call;
  }
  Doubles in_double(const Doubles& x) const {
    Doubles y(kTokens * outputs);
    for (int t = 0; t < kTokens; ++t)
      for (int n = 0; n < outputs; ++n)
        for (int k = 0; k < inputs; ++k) y[t * outputs + n] += x[t * inputs + k] * weight[n * inputs + k];
    return y;
  }
};

struct Block {
  Linear project{3 * kWidth, kWidth}, merge{kWidth, kWidth}, expand{kHidden, kWidth}, contract{kWidth, kHidden};
  Floats shift = normal(kWidth), scale = normal(kWidth), gate = normal(kWidth);
};

Floats native(const Block& block, const Floats& x, sc_context* context) {
  Floats qkv(kTokens * 3 * kWidth), attended(kTokens * kWidth), y(x.size()), hidden(kTokens * kHidden), out(x.size());
  const auto modulated = [&](sc_linear_apply_call call) {
    call.shift.data = block.shift.data(), call.scale.data = block.scale.data();
    return call;
  };
  const auto gated = [&](sc_linear_apply_call call, const float* residual) {
    call.gate.data = block.gate.data(), call.residual = residual, call.residual_stride = kWidth;
    return call;
  };
  sc_linear_apply_call call = modulated(block.project.call(x.data(), qkv.data()));
  check(sc_linear_apply(block.project.packed.get(), &call));
  sc_tokens tokens;
  sc_tokens_init(&tokens, sizeof tokens);
  tokens.count = kTokens;
  tokens.q = {qkv.data(), 3 * kWidth, kDim};
  tokens.k = {qkv.data() + kWidth, 3 * kWidth, kDim};
  tokens.v = {qkv.data() + 2 * kWidth, 3 * kWidth, kDim};
  const sc_read past{0, 0, nullptr};
  check(sc_context_attend(context, 0, &tokens, &past, 1, SC_NO_SEGMENT, attended.data()));
  call = gated(block.merge.call(attended.data(), y.data()), x.data());
  check(sc_linear_apply(block.merge.packed.get(), &call));
  call = modulated(block.expand.call(y.data(), hidden.data()));
  call.activation = SC_GELU_TANH;
  check(sc_linear_apply(block.expand.packed.get(), &call));
  call = gated(block.contract.call(hidden.data(), out.data()), y.data());
  check(sc_linear_apply(block.contract.packed.get(), &call));
  return out;
}

Doubles in_double(const Block& block, const Floats& start, const Floats& past_k, const Floats& past_v) {
  Doubles x(start.begin(), start.end());
  const auto modulated = [&](Doubles rows) {
    for (int t = 0; t < kTokens; ++t) {
      double* row = &rows[t * kWidth];
      double mean = 0, square = 0;
      for (int d = 0; d < kWidth; ++d) mean += row[d] / kWidth;
      for (int d = 0; d < kWidth; ++d) square += (row[d] - mean) * (row[d] - mean) / kWidth;
      for (int d = 0; d < kWidth; ++d)
        row[d] = (row[d] - mean) / std::sqrt(square + 1e-5) * (1 + block.scale[d]) + block.shift[d];
    }
    return rows;
  };
  const auto add_gated = [&](const Doubles& update) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += block.gate[i % kWidth] * update[i];
  };
  const Doubles qkv = block.project.in_double(modulated(x));
  Doubles attended(kTokens * kWidth);
  for (int t = 0; t < kTokens; ++t)
    for (int h = 0; h < kHeads; ++h) {
      double total = 0;
      Doubles sum(kDim);
      for (int j = 0; j < kPast + kTokens; ++j) {
        const auto at = [&](const Floats& past, int part, int d) {
          return j < kPast ? double(past[j * kWidth + h * kDim + d])
                           : qkv[(j - kPast) * 3 * kWidth + part * kWidth + h * kDim + d];
        };
        double logit = 0;
        const double* q = &qkv[t * 3 * kWidth + h * kDim];
        for (int d = 0; d < kDim; ++d) logit += q[d] * at(past_k, 1, d) / std::sqrt(kDim);
        total += std::exp(logit);
        for (int d = 0; d < kDim; ++d) sum[d] += std::exp(logit) * at(past_v, 2, d);
      }
      for (int d = 0; d < kDim; ++d) attended[t * kWidth + h * kDim + d] = sum[d] / total;
    }
  add_gated(block.merge.in_double(attended));
  Doubles hidden = block.expand.in_double(modulated(x));
  for (double& v : hidden) v = 0.5 * v * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (v + 0.044715 * v * v * v)));
  add_gated(block.contract.in_double(hidden));
  return x;
}

}  // namespace

int main() try {
  const sc_segment motion{"motion", kPast, 1, 0, 1};
  sc_context_params params;
  sc_context_params_init(&params, sizeof params);
  params.layers = 1, params.heads = kHeads, params.head_dim = kDim;
  params.segments = &motion, params.segment_count = 1;
  sc_context* made = nullptr;
  check(sc_context_create(&params, &made));
  const Context context(made);

  const Floats past_k = normal(kPast * kWidth), past_v = normal(kPast * kWidth), x = normal(kTokens * kWidth);
  sc_tokens tokens;
  sc_tokens_init(&tokens, sizeof tokens);
  tokens.count = kPast;
  tokens.k = {past_k.data(), kWidth, kDim}, tokens.v = {past_v.data(), kWidth, kDim};
  check(sc_context_append(made, 0, 0, &tokens));
  check(sc_context_commit(made, 0, SC_NEXT_LABEL));

  const Block block;
  const Floats got = native(block, x, made);
  const Doubles wanted = in_double(block, x, past_k, past_v);
  double error = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - wanted[i]) * (got[i] - wanted[i]);
    size += wanted[i] * wanted[i];
  }
  const double relative = std::sqrt(error / size);
  std::printf("libstreamchar %s, %s, %d threads: relative error %.1e against double, %s\n", sc_version_string(),
              sc_isa(), int(sc_threads()), relative, relative < 1e-2 ? "as it should be" : "WRONG");
  return relative < 1e-2 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
