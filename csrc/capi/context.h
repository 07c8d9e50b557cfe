// The handle of a context, and checks of what is read from it and stored in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cache/cpu_context.h"
#include "capi/checks.h"

struct sc_context {
  static constexpr streamchar::capi::Kind kKind = streamchar::capi::Kind::kContext;
  const streamchar::capi::Kind kind = kKind;
  streamchar::CpuContext context;
  std::size_t limit;
};

namespace streamchar::capi {

inline const SegmentSpec& check_segment(const sc_context& context, int32_t segment) {
  const std::vector<SegmentSpec>& segments = context.context.cache().spec().segments;
  check_range("segment", segment, 0, static_cast<int64_t>(segments.size()) - 1);
  return segments[static_cast<std::size_t>(segment)];
}

inline void check_rows(const SegmentSpec& spec, int32_t rows) {
  if (rows <= spec.capacity) return;
  fail(SC_E_INVALID_ARGUMENT, std::to_string(rows) + " tokens do not fit segment '" + spec.name + "'",
       "at most " + std::to_string(spec.capacity) + ", or a greater capacity");
}

inline std::vector<ContextRead> context_reads(const sc_context& context, const sc_read* reads, int32_t count) {
  check_range("read_count", count, 0, kMaxCount);
  if (count) check_pointer("reads", reads);
  std::vector<ContextRead> chunks;
  chunks.reserve(static_cast<std::size_t>(count));
  for (int32_t i = 0; i < count; ++i) {
    check_segment(context, reads[i].segment);
    check_range("age", reads[i].age, 0, context.context.cache().live_count(reads[i].segment) - 1);
    chunks.push_back({reads[i].segment, reads[i].age, reads[i].shift});
  }
  return chunks;
}

inline std::optional<int> stored_segment(const sc_context& context, int32_t store, int32_t rows) {
  if (store == SC_NO_SEGMENT) return std::nullopt;
  check_rows(check_segment(context, store), rows);
  return store;
}

}  // namespace streamchar::capi
