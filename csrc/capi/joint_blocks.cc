// The joint transformer's blocks.
#include "networks/joint_blocks.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "capi/context.h"
#include "capi/linear.h"
#include "capi/tokens.h"

using namespace streamchar;
using namespace streamchar::capi;

struct sc_joint_blocks {
  static constexpr Kind kKind = Kind::kJointBlocks;
  const Kind kind = kKind;
  JointBlocks blocks;
  int heads, head_dim;
};

namespace {

constexpr int kVectors = 6;  // of a table

JointHalf half(const std::string& name, const sc_joint_half& given, int heads, int head_dim) {
  const int width = heads * head_dim;
  check_pointer((name + ".expand").c_str(), given.expand);
  const int hidden = handle(given.expand).linear->weights().outputs;
  return {.qkv = chain_layer(name + ".qkv", given.qkv, width, int64_t{3} * width),
          .out = chain_layer(name + ".out", given.out, width, width),
          .expand = chain_layer(name + ".expand", given.expand, width, hidden),
          .contract = chain_layer(name + ".contract", given.contract, hidden, width),
          .table = copied_vector(name + ".table", given.table, kVectors * width),
          .q_norm = copied_vector(name + ".q_norm", given.q_norm, head_dim),
          .k_norm = copied_vector(name + ".k_norm", given.k_norm, head_dim)};
}

void check_shape(const sc_joint_blocks& self, const ContextShape& shape) {
  const auto text = [](int layers, int heads, int head_dim) {
    return std::to_string(layers) + " layers of " + std::to_string(heads) + " x " + std::to_string(head_dim);
  };
  const int depth = self.blocks.depth();
  if (shape.layers == depth && shape.heads == self.heads && shape.head_dim == self.head_dim) return;
  fail(SC_E_INVALID_ARGUMENT, "a stream's context has " + text(shape.layers, shape.heads, shape.head_dim),
       text(depth, self.heads, self.head_dim));
}

std::vector<JointStream> read_streams(const sc_joint_blocks& self, const sc_joint_blocks_run_call& call, int tokens) {
  std::vector<JointStream> streams;
  std::vector<const CpuContext*> contexts;
  for (int32_t i = 0; i < call.stream_count; ++i) {
    const sc_joint_stream& given = call.streams[i];
    sc_context& context = handle(given.context);
    check_shape(self, context.context.shape());
    stored_segment(context, call.store, tokens);
    streams.push_back({&context.context, context_reads(context, given.reads, given.read_count)});
    contexts.push_back(&context.context);
  }
  std::sort(contexts.begin(), contexts.end());
  if (std::adjacent_find(contexts.begin(), contexts.end()) != contexts.end()) {
    fail(SC_E_INVALID_ARGUMENT, "a context has two of the streams", "one context for each, sc_context_fork()");
  }
  return streams;
}

}  // namespace

void sc_joint_blocks_run_call_init(sc_joint_blocks_run_call* call, uint32_t struct_size) {
  sc_joint_blocks_run_call defaults{};
  defaults.store = SC_NO_SEGMENT;
  init_struct(call, struct_size, defaults);
}

sc_status sc_joint_blocks_create(int32_t heads, int32_t head_dim, const sc_joint_block* blocks, int32_t block_count,
                                 sc_joint_blocks** out) {
  return guarded([&] {
    check_heads(heads, head_dim);
    check_range("block_count", block_count, 1, kMaxSmall);
    check_pointer("blocks", blocks);
    std::vector<JointBlock> list;
    for (int32_t i = 0; i < block_count; ++i) {
      const std::string name = "blocks[" + std::to_string(i) + "].";
      list.push_back({half(name + "video", blocks[i].video, heads, head_dim),
                      half(name + "audio", blocks[i].audio, heads, head_dim)});
    }
    check_pointer("out", out);
    *out = new sc_joint_blocks{
        .blocks = JointBlocks(heads, head_dim, std::move(list)), .heads = heads, .head_dim = head_dim};
  });
}

void sc_joint_blocks_destroy(sc_joint_blocks* blocks) {
  guarded([&] {
    if (blocks) delete &handle(blocks);
  });
}

sc_status sc_joint_blocks_run(const sc_joint_blocks* blocks, const sc_joint_blocks_run_call* given) {
  return guarded([&] {
    const sc_joint_blocks& self = handle(blocks);
    const auto call = read_struct("call", given);
    check_range("stream_count", call.stream_count, 1, kMaxSmall);
    check_range("video_tokens", call.video_tokens, 0, kMaxCount);
    check_range("audio_tokens", call.audio_tokens, 0, kMaxCount);
    const int64_t tokens = int64_t{call.video_tokens} + call.audio_tokens;
    check_range("video_tokens + audio_tokens", tokens, 1, kMaxCount);
    check_range("stream_count * tokens", call.stream_count * tokens, 1, kMaxCount);
    check_pointer("streams", call.streams);
    if (call.video_tokens) check_pointer("video", call.video);
    if (call.audio_tokens) check_pointer("audio", call.audio);
    check_pointer("modulation", call.modulation);
    const std::vector<JointStream> streams = read_streams(self, call, static_cast<int>(tokens));
    self.blocks.run({.streams = streams,
                     .video_tokens = call.video_tokens,
                     .audio_tokens = call.audio_tokens,
                     .video = call.video,
                     .audio = call.audio,
                     .modulation = call.modulation,
                     .modulation_stride = call.modulation_stride,
                     .rope = call.rope,
                     .store = call.store == SC_NO_SEGMENT ? std::nullopt : std::optional<int>(call.store)});
  });
}
