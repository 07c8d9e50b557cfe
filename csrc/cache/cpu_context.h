// A context cache in CPU memory joined with the CPU kernels: what a session's denoiser calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cache/context_cache.h"
#include "kernels/kv_append.h"
#include "kernels/segment_attention.h"

namespace streamchar {

struct ContextShape {
  int layers;
  int heads;
  int head_dim;  // 64 or 128
  KvType type;
};

// One live chunk to attend to.
struct ContextRead {
  int segment;
  int age;             // 0: the segment's newest chunk
  const float* shift;  // (head_dim / 2, 2), see PanelSegment
};

// New tokens of one layer: raw projections with their norm and rotation.
struct ContextTokens {
  int tokens;
  TokenView q;  // data null where only keys and values are given
  TokenView k;  // data null where only queries are given: they attend to the chunks read alone
  TokenView v;
  HeadNorm q_norm;
  HeadNorm k_norm;
  const float* rope;  // (tokens, head_dim / 2, 2)
};

class CpuContext {
 public:
  // `segments[i].slot_bytes` is filled in here. `limit`: see ContextCache.
  CpuContext(ContextShape shape, std::vector<SegmentSpec> segments, std::size_t limit = SIZE_MAX);

  ContextCache& cache() { return cache_; }
  const ContextCache& cache() const { return cache_; }
  const ContextShape& shape() const { return shape_; }

  // Writes keys and values to the segment's staging.
  void append(int layer, int segment, const ContextTokens& tokens);

  // Does beforehand all that attend() with as many tokens, these reads and this store could fail at: rows aside, it
  // throws no more. Whether staging was opened. Throws std::out_of_range, std::bad_alloc; nothing has changed then.
  bool prepare(int tokens, std::span<const ContextRead> reads, std::optional<int> store);

  // Attention of the tokens to the chunks in `reads` and to themselves. With `store`, their keys and values
  // also become staging of that segment. out: (tokens, heads, head_dim). Throws std::out_of_range.
  void attend(int layer, const ContextTokens& tokens, std::span<const ContextRead> reads, std::optional<int> store,
              float* out);

  // A committed chunk (0 is the oldest) of one layer as (rows, heads, head_dim) float32.
  void read(int segment, int index, int layer, float* key, float* value) const;

  CpuContext fork() const;
  std::size_t bytes_held() const { return cache_.bytes_held() + own_.size() * sizeof(own_[0]); }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };

  CpuContext(ContextShape shape, ContextCache cache) : shape_(shape), cache_(std::move(cache)) {}
  std::byte* layer_data(const Slot& slot, int segment, int layer) const;
  std::byte* own_panels(int tokens);
  void write(const ContextTokens& tokens, std::byte* panels, int capacity) const;

  ContextShape shape_;
  ContextCache cache_;
  std::vector<Line> own_;  // panels of the tokens' own keys and values, one layer at a time
  std::vector<PanelSegment> segments_;  // of the call
};

}  // namespace streamchar
