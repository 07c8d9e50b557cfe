// The tiles of keys that a part of the work (work_split.h) has.
#pragma once

#include "kernels/cuda_calls.h"
#include "kernels/tiles.h"
#include "kernels/work_split.h"

namespace streamchar::cuda {

using Split = WorkSplit<kMaxStreams>;

template <int kKeys>
struct KeyWalk {
  const Segment* segments;
  int first_segment;  // within the call's list
  int segment_count;
  int tiles;          // 0 where the stream has no key at all
  TileCursor<kKeys> at;

  __device__ __forceinline__ KeyWalk(const SegmentAttention& call, const WorkPart& part) {
    const AttentionStream& stream = call.streams[part.stream];
    first_segment = stream.first_segment;
    segment_count = stream.segment_count;
    segments = call.segments + first_segment;
    at = TileCursor<kKeys>::begin(Rows{segments}, segment_count);
    tiles = at.at_end() ? 0 : part.end - part.begin;
    if (tiles) at = TileCursor<kKeys>::seek(Rows{segments}, segment_count, part.key_block(part.begin));
  }

  // From a stream's last tile to its first: a part begins somewhere, and goes round.
  __device__ __forceinline__ void advance() { at.advance_around(Rows{segments}, segment_count); }
  __device__ __forceinline__ const Segment& segment() const { return segments[at.segment]; }
  __device__ __forceinline__ int listed() const { return first_segment + at.segment; }

  // What the stream costs, for Split::make.
  static StreamWork work(const SegmentAttention& call, int stream, int query_rows) {
    const AttentionStream& of = call.streams[stream];
    const int tiles = TileCursor<kKeys>::count(Rows{call.segments + of.first_segment}, of.segment_count);
    return {of.heads, (of.tokens + query_rows - 1) / query_rows, tiles > 0 ? tiles : 1};
  }

 private:
  struct Rows {
    const Segment* list;
    __host__ __device__ __forceinline__ int operator()(int segment) const { return list[segment].rows; }
  };
};

}  // namespace streamchar::cuda
