// The context cache.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "capi/context.h"
#include "capi/tokens.h"

using namespace streamchar;
using namespace streamchar::capi;

struct sc_snapshot {
  static constexpr Kind kKind = Kind::kSnapshot;
  const Kind kind = kKind;
  ContextCache::Snapshot content;
  ContextShape shape;
  std::vector<SegmentSpec> segments;
};

namespace {

struct Plan {
  ContextShape shape;
  std::vector<SegmentSpec> segments;
  std::size_t limit;
  std::size_t bytes;
};

SegmentSpec segment_spec(const sc_segment& given, int index) {
  const std::string prefix = "segments[" + std::to_string(index) + "].";
  check_pointer((prefix + "name").c_str(), given.name);
  check_range((prefix + "capacity").c_str(), given.capacity, 1, kMaxCount);
  check_range((prefix + "chunks").c_str(), given.chunks, 1, given.ring ? kMaxSmall : 1);
  check_range((prefix + "history").c_str(), given.history, 0, given.ring ? kMaxSmall : 0);
  return {given.name, given.capacity, given.chunks, given.history, given.ring != 0, 0};
}

Plan make_plan(const sc_context_params* given) {
  const auto params = read_struct("params", given);
  check_range("layers", params.layers, 1, kMaxSmall);
  check_heads(params.heads, params.head_dim);
  check_range("segment_count", params.segment_count, 1, kMaxSmall);
  check_pointer("segments", params.segments);
  Plan plan{{params.layers, params.heads, params.head_dim, kv_type(params.storage)}, {}, SIZE_MAX, 0};
  if (params.memory_limit) plan.limit = static_cast<std::size_t>(params.memory_limit);
  unsigned __int128 total = 0;
  for (int i = 0; i < params.segment_count; ++i) {
    const SegmentSpec& spec = plan.segments.emplace_back(segment_spec(params.segments[i], i));
    const PanelLayout layout{params.heads, params.head_dim, spec.capacity};
    const int slots = spec.retained() + (spec.ring ? 1 : 0);
    total += static_cast<unsigned __int128>(layout.layer_bytes(plan.shape.type)) *
             static_cast<unsigned>(params.layers) * static_cast<unsigned>(slots);
  }
  if (total > SIZE_MAX / 2) fail(SC_E_HOST_MEMORY, "no machine has the memory planned", "smaller sizes");
  plan.bytes = static_cast<std::size_t>(total);
  return plan;
}

bool same(const ContextShape& a, const ContextShape& b) {
  return a.layers == b.layers && a.heads == b.heads && a.head_dim == b.head_dim && a.type == b.type;
}

bool same(const SegmentSpec& a, const SegmentSpec& b) {
  return a.name == b.name && a.capacity == b.capacity && a.chunks == b.chunks && a.history == b.history &&
         a.ring == b.ring;
}

void check_layer(const sc_context& context, int32_t layer) {
  check_range("layer", layer, 0, context.context.shape().layers - 1);
}

ContextTokens read_tokens(const sc_tokens* given, bool queries) {
  const auto tokens = read_struct("tokens", given);
  check_range("tokens.count", tokens.count, 1, kMaxCount);
  return {.tokens = tokens.count,
          .q = queries ? token_view("tokens.q", tokens.q) : TokenView{},
          .k = token_view("tokens.k", tokens.k),
          .v = token_view("tokens.v", tokens.v),
          .q_norm = queries ? head_norm("tokens.q_norm", tokens.q_norm, tokens.count) : HeadNorm{},
          .k_norm = head_norm("tokens.k_norm", tokens.k_norm, tokens.count),
          .rope = tokens.rope};
}

// A slot that cannot be had, with the numbers that say why.
template <typename Body>
void within_limit(const sc_context& context, const Body& body) {
  try {
    body();
  } catch (const std::bad_alloc&) {
    if (context.limit == SIZE_MAX) throw;
    fail(SC_E_HOST_MEMORY, "one more chunk would pass memory_limit " + std::to_string(context.limit) + ", " +
                               std::to_string(context.context.cache().bytes_held()) + " are held",
         "fewer snapshots and forks, sc_context_trim(), or a greater limit");
  }
}

}  // namespace

void sc_context_params_init(sc_context_params* params, uint32_t struct_size) { init_struct(params, struct_size, {}); }

void sc_tokens_init(sc_tokens* tokens, uint32_t struct_size) {
  sc_tokens defaults{};
  defaults.q_norm = defaults.k_norm = kNoNorm;
  init_struct(tokens, struct_size, defaults);
}

void sc_segment_info_init(sc_segment_info* info, uint32_t struct_size) { init_struct(info, struct_size, {}); }

sc_status sc_context_plan(const sc_context_params* params, uint64_t* bytes) {
  return guarded([&] {
    const Plan plan = make_plan(params);
    *check_pointer("bytes", bytes) = plan.bytes;
  });
}

sc_status sc_context_create(const sc_context_params* params, sc_context** out) {
  return guarded([&] {
    check_pointer("out", out);
    Plan plan = make_plan(params);
    if (plan.bytes > plan.limit) {
      fail(SC_E_HOST_MEMORY,
           std::to_string(plan.bytes) + " bytes are planned, memory_limit is " + std::to_string(plan.limit),
           "smaller segments, less history, SC_BF16, SC_INT8, or a greater limit");
    }
    try {
      *out = new sc_context{.context = CpuContext(plan.shape, std::move(plan.segments), plan.limit),
                            .limit = plan.limit};
    } catch (const std::bad_alloc&) {
      fail(SC_E_HOST_MEMORY, std::to_string(plan.bytes) + " bytes cannot be had",
           "smaller segments, less history, SC_BF16 or SC_INT8");
    }
  });
}

void sc_context_destroy(sc_context* context) {
  guarded([&] {
    if (context) delete &handle(context);
  });
}

sc_status sc_context_fork(const sc_context* context, sc_context** out) {
  return guarded([&] {
    const sc_context& parent = handle(context);
    *check_pointer("out", out) = new sc_context{.context = parent.context.fork(), .limit = parent.limit};
  });
}

sc_status sc_context_append(sc_context* context, int32_t layer, int32_t segment, const sc_tokens* tokens) {
  return guarded([&] {
    sc_context& self = handle(context);
    check_layer(self, layer);
    const SegmentSpec& spec = check_segment(self, segment);
    const ContextTokens read = read_tokens(tokens, false);
    check_rows(spec, read.tokens);
    within_limit(self, [&] { self.context.append(layer, segment, read); });
  });
}

sc_status sc_context_attend(sc_context* context, int32_t layer, const sc_tokens* tokens, const sc_read* reads,
                            int32_t read_count, int32_t store, float* out) {
  return guarded([&] {
    sc_context& self = handle(context);
    check_layer(self, layer);
    const ContextTokens read = read_tokens(tokens, true);
    const std::vector<ContextRead> chunks = context_reads(self, reads, read_count);
    const std::optional<int> kept = stored_segment(self, store, read.tokens);
    check_pointer("out", out);
    within_limit(self, [&] { self.context.attend(layer, read, chunks, kept, out); });
  });
}

sc_status sc_context_commit(sc_context* context, int32_t segment, int64_t label) {
  return guarded([&] {
    check_segment(handle(context), segment);
    context->context.cache().commit(segment, label == SC_NEXT_LABEL ? std::nullopt : std::optional(label));
  });
}

sc_status sc_context_drop(sc_context* context, int32_t segment) {
  return guarded([&] {
    check_segment(handle(context), segment);
    context->context.cache().drop(segment);
  });
}

sc_status sc_context_rewind(sc_context* context, int32_t segment, int64_t label) {
  return guarded([&] {
    check_segment(handle(context), segment);
    context->context.cache().rewind(segment, label);
  });
}

sc_status sc_context_clear(sc_context* context, int32_t segment) {
  return guarded([&] {
    check_segment(handle(context), segment);
    context->context.cache().clear(segment);
  });
}

sc_status sc_context_snapshot(const sc_context* context, sc_snapshot** out) {
  return guarded([&] {
    const CpuContext& self = handle(context).context;
    *check_pointer("out", out) = new sc_snapshot{
        .content = self.cache().snapshot(), .shape = self.shape(), .segments = self.cache().spec().segments};
  });
}

sc_status sc_context_restore(sc_context* context, const sc_snapshot* snapshot) {
  return guarded([&] {
    CpuContext& self = handle(context).context;
    const sc_snapshot& from = handle(snapshot);
    const std::vector<SegmentSpec>& mine = self.cache().spec().segments;
    const bool fits = same(self.shape(), from.shape) && mine.size() == from.segments.size() &&
                      std::equal(mine.begin(), mine.end(), from.segments.begin(),
                                 [](const SegmentSpec& a, const SegmentSpec& b) { return same(a, b); });
    if (!fits) {
      fail(SC_E_INVALID_ARGUMENT, "the snapshot is of a context with other parameters",
           "a context made with the snapshot's parameters");
    }
    self.cache().restore(from.content);
  });
}

void sc_snapshot_destroy(sc_snapshot* snapshot) {
  guarded([&] {
    if (snapshot) delete &handle(snapshot);
  });
}

sc_status sc_context_segment_info(const sc_context* context, int32_t segment, sc_segment_info* info) {
  return guarded([&] {
    const SegmentSpec& spec = check_segment(handle(context), segment);
    sc_segment_info facts = read_struct("info", info);
    const ContextCache& cache = context->context.cache();
    facts.live = cache.live_count(segment);
    facts.live_rows = 0;
    for (int age = 0; age < facts.live; ++age) facts.live_rows += cache.live(segment, age).rows;
    facts.committed = cache.committed_count(segment);
    facts.staged = cache.staged(segment);
    facts.generation = cache.generation(segment);
    facts.chunk_bytes = spec.slot_bytes;
    std::memcpy(info, &facts, sizeof facts);
  });
}

sc_status sc_context_chunk(const sc_context* context, int32_t segment, int32_t index, int64_t* label, int32_t* rows) {
  return guarded([&] {
    check_segment(handle(context), segment);
    const ContextCache& cache = context->context.cache();
    check_range("index", index, 0, cache.committed_count(segment) - 1);
    const Slot& slot = cache.committed(segment, index);
    if (label) *label = slot.label;
    if (rows) *rows = slot.rows;
  });
}

sc_status sc_context_read(const sc_context* context, int32_t segment, int32_t index, int32_t layer, float* key,
                          float* value) {
  return guarded([&] {
    check_segment(handle(context), segment);
    check_range("index", index, 0, context->context.cache().committed_count(segment) - 1);
    check_layer(*context, layer);
    context->context.read(segment, index, layer, check_pointer("key", key), check_pointer("value", value));
  });
}

sc_status sc_context_bytes(const sc_context* context, uint64_t* bytes) {
  return guarded([&] {
    const sc_context& self = handle(context);
    *check_pointer("bytes", bytes) = self.context.cache().bytes_held();
  });
}

sc_status sc_context_trim(sc_context* context) {
  return guarded([&] { handle(context).context.cache().trim(); });
}
