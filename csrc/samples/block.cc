// Two blocks of a joint transformer from C++: video and audio tokens that attend to one another and to a cached chunk,
// in one call. Compared with the same blocks in double precision.
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <streamchar/streamchar.h>

namespace {

constexpr int kBlocks = 2, kHeads = 2, kDim = 64, kWidth = kHeads * kDim, kHidden = 256;
constexpr int kVideo = 10, kAudio = 4, kTokens = kVideo + kAudio, kPast = 12;
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
  void operator()(sc_joint_blocks* blocks) const { sc_joint_blocks_destroy(blocks); }
};
using Context = std::unique_ptr<sc_context, Destroy>;
using Blocks = std::unique_ptr<sc_joint_blocks, Destroy>;

Floats normal(std::size_t count, double size = 1.0, double mean = 0.0) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> draw(static_cast<float>(mean), static_cast<float>(size));
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
  Doubles in_double(const Doubles& x) const {
    const int rows = int(x.size()) / inputs;
    Doubles y(std::size_t(rows) * outputs);
    for (int t = 0; t < rows; ++t)
      for (int n = 0; n < outputs; ++n)
        for (int k = 0; k < inputs; ++k) y[t * outputs + n] += x[t * inputs + k] * weight[n * inputs + k];
    return y;
  }
};

struct Half {  // a block's part for one kind of tokens
  Linear qkv{3 * kWidth, kWidth}, out{kWidth, kWidth}, expand{kHidden, kWidth}, contract{kWidth, kHidden};
  Floats table = normal(6 * kWidth, 0.3), q_norm = normal(kDim, 0.2, 1), k_norm = normal(kDim, 0.2, 1);

  sc_joint_half joint() const {
    return {qkv.packed.get(), out.packed.get(), expand.packed.get(), contract.packed.get(),
            table.data(),     q_norm.data(),    k_norm.data()};
  }
};

struct Block {
  Half video, audio;
};

struct Tokens {
  Floats video = normal(kVideo * kWidth), audio = normal(kAudio * kWidth);
};

Blocks joined(const std::vector<Block>& blocks) {
  std::vector<sc_joint_block> joint;
  for (const Block& block : blocks) joint.push_back({block.video.joint(), block.audio.joint()});
  sc_joint_blocks* made = nullptr;
  check(sc_joint_blocks_create(kHeads, kDim, joint.data(), int32_t(joint.size()), &made));
  return Blocks(made);
}

void run(const sc_joint_blocks* blocks, sc_context* context, const Floats& modulation, Tokens& tokens) {
  const sc_read past{0, 0, nullptr};
  const sc_joint_stream stream{context, &past, 1, 0};
  sc_joint_blocks_run_call call;
  sc_joint_blocks_run_call_init(&call, sizeof call);
  call.streams = &stream, call.stream_count = 1;
  call.video_tokens = kVideo, call.video = tokens.video.data();
  call.audio_tokens = kAudio, call.audio = tokens.audio.data();
  call.modulation = modulation.data();
  check(sc_joint_blocks_run(blocks, &call));
}

// ---- in double precision

Doubles adaln(Doubles rows, const double* shift, const double* scale) {
  for (double* row = rows.data(); row != rows.data() + rows.size(); row += kWidth) {
    double mean = 0, square = 0;
    for (int d = 0; d < kWidth; ++d) mean += row[d] / kWidth;
    for (int d = 0; d < kWidth; ++d) square += (row[d] - mean) * (row[d] - mean) / kWidth;
    for (int d = 0; d < kWidth; ++d) row[d] = (row[d] - mean) / std::sqrt(square + 1e-5) * (1 + scale[d]) + shift[d];
  }
  return rows;
}

void add_gated(Doubles& x, const double* gate, const Doubles& update) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += gate[i % kWidth] * update[i];
}

void normalize(double* head, const Floats& weight) {
  double square = 0;
  for (int d = 0; d < kDim; ++d) square += head[d] * head[d] / kDim;
  for (int d = 0; d < kDim; ++d) head[d] *= weight[d] / std::sqrt(square + 1e-6);
}

// qkv of one kind, with queries and keys normalized.
Doubles projected(const Half& half, const Doubles& x, const Doubles& m) {
  Doubles qkv = half.qkv.in_double(adaln(x, &m[0], &m[kWidth]));
  for (std::size_t at = 0; at < qkv.size(); at += kDim) {
    const std::size_t part = at / kWidth % 3;
    if (part < 2) normalize(&qkv[at], part ? half.k_norm : half.q_norm);
  }
  return qkv;
}

Doubles attention(const Doubles& qkv, const float* past_k, const float* past_v) {
  Doubles attended(kTokens * kWidth);
  for (int t = 0; t < kTokens; ++t)
    for (int h = 0; h < kHeads; ++h) {
      double total = 0;
      Doubles sum(kDim);
      for (int j = 0; j < kPast + kTokens; ++j) {
        const auto at = [&](const float* past, int part, int d) {
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
  return attended;
}

void finish(const Half& half, Doubles& x, const Doubles& m, const Doubles& attended) {
  add_gated(x, &m[2 * kWidth], half.out.in_double(attended));
  Doubles hidden = half.expand.in_double(adaln(x, &m[3 * kWidth], &m[4 * kWidth]));
  for (double& v : hidden) v = 0.5 * v * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (v + 0.044715 * v * v * v)));
  add_gated(x, &m[5 * kWidth], half.contract.in_double(hidden));
}

// past_k, past_v: (kBlocks, kPast, kWidth)
Doubles in_double(const std::vector<Block>& blocks, const Tokens& start, const Floats& modulation,
                  const Floats& past_k, const Floats& past_v) {
  Doubles video(start.video.begin(), start.video.end()), audio(start.audio.begin(), start.audio.end());
  const auto sum = [&](const Floats& table) {
    Doubles m(modulation.begin(), modulation.end());
    for (std::size_t i = 0; i < m.size(); ++i) m[i] += table[i];
    return m;
  };
  const float *k = past_k.data(), *v = past_v.data();
  for (const Block& block : blocks) {
    const Doubles m_video = sum(block.video.table), m_audio = sum(block.audio.table);
    Doubles qkv = projected(block.video, video, m_video);
    const Doubles more = projected(block.audio, audio, m_audio);
    qkv.insert(qkv.end(), more.begin(), more.end());
    const Doubles attended = attention(qkv, k, v);
    const auto middle = attended.begin() + kVideo * kWidth;
    finish(block.video, video, m_video, Doubles(attended.begin(), middle));
    finish(block.audio, audio, m_audio, Doubles(middle, attended.end()));
    k += kPast * kWidth, v += kPast * kWidth;
  }
  video.insert(video.end(), audio.begin(), audio.end());
  return video;
}

}  // namespace

int main() try {
  const sc_segment motion{"motion", kPast, 1, 0, 1};
  sc_context_params params;
  sc_context_params_init(&params, sizeof params);
  params.layers = kBlocks, params.heads = kHeads, params.head_dim = kDim;
  params.segments = &motion, params.segment_count = 1;
  sc_context* made = nullptr;
  check(sc_context_create(&params, &made));
  const Context context(made);

  const Floats past_k = normal(kBlocks * kPast * kWidth), past_v = normal(kBlocks * kPast * kWidth);
  sc_tokens past;
  sc_tokens_init(&past, sizeof past);
  past.count = kPast;
  for (int layer = 0; layer < kBlocks; ++layer) {
    past.k = {past_k.data() + layer * kPast * kWidth, kWidth, kDim};
    past.v = {past_v.data() + layer * kPast * kWidth, kWidth, kDim};
    check(sc_context_append(made, layer, 0, &past));
  }
  check(sc_context_commit(made, 0, SC_NEXT_LABEL));

  const std::vector<Block> blocks(kBlocks);
  const Floats modulation = normal(6 * kWidth, 0.5);
  Tokens tokens;
  const Doubles wanted = in_double(blocks, tokens, modulation, past_k, past_v);
  run(joined(blocks).get(), made, modulation, tokens);
  Floats got = tokens.video;
  got.insert(got.end(), tokens.audio.begin(), tokens.audio.end());
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
