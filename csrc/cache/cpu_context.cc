#include "cache/cpu_context.h"

#include <utility>

namespace streamchar {
namespace {

int64_t layer_bytes(const ContextShape& shape, int capacity) {
  return PanelLayout{shape.heads, shape.head_dim, capacity}.layer_bytes(shape.type);
}

CacheSpec with_sizes(const ContextShape& shape, std::vector<SegmentSpec> segments) {
  for (SegmentSpec& s : segments) {
    s.slot_bytes = static_cast<std::size_t>(shape.layers * layer_bytes(shape, s.capacity));
  }
  return {shape.layers, std::move(segments)};
}

}  // namespace

CpuContext::CpuContext(ContextShape shape, std::vector<SegmentSpec> segments, std::size_t limit)
    : shape_(shape), cache_(with_sizes(shape, std::move(segments)), kHostSlotMemory, limit) {}

std::byte* CpuContext::layer_data(const Slot& slot, int segment, int layer) const {
  return static_cast<std::byte*>(slot.data) +
         layer * layer_bytes(shape_, cache_.spec().segments.at(static_cast<std::size_t>(segment)).capacity);
}

std::byte* CpuContext::own_panels(int tokens) {
  const std::size_t lines = static_cast<std::size_t>(layer_bytes(shape_, tokens)) / sizeof(Line);
  if (own_.size() < lines) own_.resize(lines);
  return own_.data()->bytes;
}

void CpuContext::write(const ContextTokens& tokens, std::byte* panels, int capacity) const {
  kv_append_cpu({.tokens = tokens.tokens,
                 .heads = shape_.heads,
                 .head_dim = shape_.head_dim,
                 .type = shape_.type,
                 .k = tokens.k,
                 .v = tokens.v,
                 .norm = tokens.k_norm,
                 .rope = tokens.rope,
                 .panels = panels,
                 .capacity = capacity});
}

void CpuContext::append(int layer, int segment, const ContextTokens& tokens) {
  const Slot& slot = cache_.stage(segment, layer, tokens.tokens);
  write(tokens, layer_data(slot, segment, layer), cache_.spec().segments[segment].capacity);
}

bool CpuContext::prepare(int tokens, std::span<const ContextRead> reads, std::optional<int> store) {
  for (const ContextRead& read : reads) cache_.live(read.segment, read.age);
  segments_.reserve(reads.size() + 1);
  if (store) return cache_.open(*store);
  own_panels(tokens);
  return false;
}

void CpuContext::attend(int layer, const ContextTokens& tokens, std::span<const ContextRead> reads,
                        std::optional<int> store, float* out) {
  segments_.clear();
  segments_.reserve(reads.size() + 1);
  for (const ContextRead& read : reads) {
    const Slot& slot = cache_.live(read.segment, read.age);
    segments_.push_back({layer_data(slot, read.segment, layer), cache_.spec().segments[read.segment].capacity,
                         slot.rows, read.shift});
  }
  if (tokens.k.data) {
    PanelSegment own{nullptr, tokens.tokens, tokens.tokens, nullptr};
    if (store) {
      own.data = layer_data(cache_.stage(*store, layer, tokens.tokens), *store, layer);
      own.capacity = cache_.spec().segments[*store].capacity;
    } else {
      own.data = own_panels(tokens.tokens);
    }
    write(tokens, static_cast<std::byte*>(const_cast<void*>(own.data)), own.capacity);
    segments_.push_back(own);
  }
  segment_attention_cpu({.tokens = tokens.tokens,
                         .heads = shape_.heads,
                         .head_dim = shape_.head_dim,
                         .type = shape_.type,
                         .q = tokens.q,
                         .norm = tokens.q_norm,
                         .rope = tokens.rope,
                         .segments = segments_.data(),
                         .segment_count = static_cast<int>(segments_.size()),
                         .out = out,
                         .lse = nullptr});
}

void CpuContext::read(int segment, int index, int layer, float* key, float* value) const {
  const Slot& slot = cache_.committed(segment, index);
  kv_read_cpu(layer_data(slot, segment, layer), shape_.type, cache_.spec().segments[segment].capacity, slot.rows,
              shape_.heads, shape_.head_dim, key, value);
}

CpuContext CpuContext::fork() const { return CpuContext(shape_, cache_.fork()); }

}  // namespace streamchar
