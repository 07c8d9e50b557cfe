// Queries as segment_attention_sm90.cu multiplies them: normalised, rotated, turned for a segment, and rounded once.
#pragma once

#include "kernels/cuda/hopper_attention.cuh"
#include "kernels/cuda/token_row.cuh"

namespace streamchar::cuda::hopper_attention {

// Eight channels' weights or turns from a table, or what stands for none.
__device__ __forceinline__ void load_eight(float4 (&to)[2], const float* from, float4 otherwise) {
  to[0] = to[1] = otherwise;
  if (from) {
    to[0] = __ldg(reinterpret_cast<const float4*>(from));
    to[1] = __ldg(reinterpret_cast<const float4*>(from) + 1);
  }
}

// Eight channels in a row, of which a thread has a query's bits and rotation.
struct QueryPiece {
  uint4 bits;
  float4 rope[2];

  __device__ __forceinline__ void unpack(Pair (&x)[4]) const {
    x[0] = unpack_bf16(bits.x);
    x[1] = unpack_bf16(bits.y);
    x[2] = unpack_bf16(bits.z);
    x[3] = unpack_bf16(bits.w);
  }
};

__device__ __forceinline__ void turn_pairs(Pair (&x)[4], const float4 (&by)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    x[2 * i] = rotate_pair(x[2 * i], {by[i].x, by[i].y});
    x[2 * i + 1] = rotate_pair(x[2 * i + 1], {by[i].z, by[i].w});
  }
}

inline constexpr float4 kNoTurn = {1.0f, 0.0f, 1.0f, 0.0f};

// Makes rows of a tile's queries; a warp, of which a thread has eight channels of one row in every kPass.
template <int kDim, bool kNarrow>
struct QueryRows {
  static constexpr int kLanes = kDim / 8, kPass = 32 / kLanes;

  const AttentionStream& stream;
  int head;
  int first_token;         // of the tile
  const Segment& segment;
  float unit;              // what keys in narrow storage are to be multiplied by
  int lane;

  __device__ __forceinline__ int column() const { return lane % kLanes * 8; }
  __device__ __forceinline__ int place() const { return lane / kLanes; }
  __device__ __forceinline__ bool moved() const { return segment.moved && stream.moved.data; }
  __device__ __forceinline__ const float* weights() const {
    return moved() || !stream.norm.weight ? nullptr : stream.norm.weight + column();
  }
  __device__ __forceinline__ const float* rope() const { return moved() || !stream.rope ? nullptr : stream.rope + column(); }
  __device__ __forceinline__ const float* shift() const {
    return moved() || !segment.shift ? nullptr : segment.shift + column();
  }
  __device__ __forceinline__ void load_turn(float4 (&turn)[2]) const {
    load_eight(turn, shift(), kNoTurn);
    if constexpr (kNarrow) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        turn[i] = make_float4(turn[i].x * unit, turn[i].y * unit, turn[i].z * unit, turn[i].w * unit);
      }
    }
  }
  __device__ __forceinline__ uint32_t offset(int row) const {
    return row / 64 * Shape<kDim, kNarrow>::kGroupTile + hopper::tile_offset(64, row % 64, column());
  }
  template <bool kHalf>
  __device__ __forceinline__ static void store(unsigned char* to, const Pair (&x)[4]) {
    *reinterpret_cast<uint4*>(to) = make_uint4(pack<kHalf>(x[0].x, x[0].y), pack<kHalf>(x[1].x, x[1].y),
                                               pack<kHalf>(x[2].x, x[2].y), pack<kHalf>(x[3].x, x[3].y));
  }

  // This thread's parts of the queries, as they lie in memory.
  struct Source {
    const uint16_t* first;
    int64_t token_stride;
    __device__ __forceinline__ uint4 load(int token) const {
      return __ldg(reinterpret_cast<const uint4*>(first + token * token_stride));
    }
  };
  __device__ __forceinline__ Source source() const {
    const TokenView& from = moved() ? stream.moved : stream.q;
    return {static_cast<const uint16_t*>(from.data) + head * from.head_stride + column(), from.token_stride};
  }

  // Rows `first` to `last` from the stream's queries: kTogether passes are under way at once, and both are multiples of
  // their rows. What normalised ones are before the segment turns them is kept in `base`.
  template <int kTogether>
  __device__ __forceinline__ void make(unsigned char* tile, int first, int last, unsigned char* base) const {
    constexpr int kStep = kTogether * kPass;
    const Source source = this->source();
    const float* const rope = this->rope();
    const float* const weights = this->weights();
    // Group by group of tokens that share weights: nearly always there is one.
    int group = 0;
    if (weights) {
      while (group + 1 < stream.norm.groups && first_token + first >= stream.norm.bounds[group + 1]) ++group;
    }
#pragma unroll 1
    for (int r = first; r < last;) {
      const bool ends = weights && group + 1 < stream.norm.groups;
      const int end = ends ? min(last, stream.norm.bounds[group + 1] - first_token) : last;
      float4 weight[2];
      load_eight(weight, weights ? weights + group * kDim : nullptr, make_float4(1.0f, 1.0f, 1.0f, 1.0f));
#pragma unroll 1
      for (int at = r / kStep * kStep; at < end; at += kStep) {
        QueryPiece piece[kTogether];
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
          const int token = min(first_token + at + j * kPass + place(), stream.tokens - 1);
          piece[j].bits = source.load(token);
          load_eight(piece[j].rope, rope ? rope + int64_t{token} * kDim : nullptr, kNoTurn);
        }
        float inverse[kTogether];   // norms
#pragma unroll
        for (int j = 0; j < kTogether; ++j) inverse[j] = 1.0f;
        if (weights) {
#pragma unroll
          for (int j = 0; j < kTogether; ++j) {
            Pair x[4];
            piece[j].unpack(x);
            inverse[j] = lane_squares(x);
          }
#pragma unroll
          for (int distance = kLanes / 2; distance; distance /= 2) {
#pragma unroll
            for (int j = 0; j < kTogether; ++j) inverse[j] += __shfl_xor_sync(~0u, inverse[j], distance);
          }
#pragma unroll
          for (int j = 0; j < kTogether; ++j) inverse[j] = rsqrtf(inverse[j] / kDim + stream.norm.eps);
        }
        float4 turn[2];
        load_turn(turn);
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
          const int row = at + j * kPass + place();
          Pair x[4];
          piece[j].unpack(x);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float scale = inverse[j];
            x[2 * i] = {x[2 * i].x * (scale * weight[i].x), x[2 * i].y * (scale * weight[i].y)};
            x[2 * i + 1] = {x[2 * i + 1].x * (scale * weight[i].z), x[2 * i + 1].y * (scale * weight[i].w)};
          }
          turn_pairs(x, piece[j].rope);
          if (row < r || row >= end) continue;
          const uint32_t place_in_tile = offset(row);
          if (weights) store<true>(base + place_in_tile, x);
          turn_pairs(x, turn);
          store<kNarrow>(tile + place_in_tile, x);
        }
      }
      r = end;
      ++group;
    }
  }

  // The same rows as they come: neither normalised nor turned.
  template <int kTogether>
  __device__ __forceinline__ void copy(unsigned char* tile, int first, int last) const {
    const Source source = this->source();
#pragma unroll 1
    for (int at = first + place(); at < last; at += kTogether * kPass) {
      uint4 bits[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) bits[j] = source.load(min(first_token + at + j * kPass, stream.tokens - 1));
#pragma unroll
      for (int j = 0; j < kTogether; ++j) *reinterpret_cast<uint4*>(tile + offset(at + j * kPass)) = bits[j];
    }
  }
  __device__ __forceinline__ bool ready() const { return !kNarrow && !weights() && !rope() && !shift(); }

  // The same rows for another segment, from the base.
  template <int kTogether>
  __device__ __forceinline__ void turn(unsigned char* tile, int first, int last, const unsigned char* base) const {
    float4 turn[2];
    load_turn(turn);
#pragma unroll 1
    for (int at = first + place(); at < last; at += kTogether * kPass) {
      uint4 bits[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) bits[j] = *reinterpret_cast<const uint4*>(base + offset(at + j * kPass));
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const uint32_t words[4] = {bits[j].x, bits[j].y, bits[j].z, bits[j].w};
        Pair x[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) unpack_f16(words[i], x[i].x, x[i].y);
        turn_pairs(x, turn);
        store<kNarrow>(tile + offset(at + j * kPass), x);
      }
    }
  }
};

// A warp of those that make queries ahead. All are told of every visit.
//
// The first segment of a part costs them a row of the projection, a norm and two rotations a query; for the others they
// keep what does not depend on the segment. It is in float16, whose rounding is an eighth of that of the bfloat16 queries.
template <int kDim, bool kNarrow>
struct QueryMaker {
  using S = Shape<kDim, kNarrow>;
  const Problem& problem;
  unsigned char* memory;
  uint32_t shared;
  int warp;                // 0 to kMakers - 1
  int lane;
  QueryRing ahead;
  // The consumers make the first queries themselves: nobody has had time for it before. Then: whether the part under way
  // has a base.
  enum { kFirst, kNoBase, kBase } state = kFirst;

  __device__ __forceinline__ void meet(const Visit& visit) {
    const AttentionStream& stream = problem.call.streams[visit.stream];
    if (visit.kind == Visit::kEmpty) return store_nothing(stream, visit);
    const Barriers<S> barriers{shared + S::kBarriers};
    const Segment& segment = problem.call.segments[visit.listed];
    float unit = 1.0f;
    if constexpr (kNarrow) unit = from_storage_factor(problem.call.storage, segment.key_range[visit.head]);
    const QueryRows<kDim, kNarrow> rows{stream, visit.head, visit.query_block * S::kRows, segment, unit, lane};
    if (state == kFirst) {
      barrier_wait(barriers.first_made(), 0);
      state = rows.weights() ? kBase : kNoBase;
      return;
    }
    if (visit.opens) state = kNoBase;
    constexpr int kMade = kNarrow ? 1 : 2, kTurned = kNarrow ? 2 : 4;   // passes that registers have room for
    constexpr int kStep = kTurned * QueryRows<kDim, kNarrow>::kPass;
    static_assert(S::kRows % kStep == 0);
    barrier_wait(barriers.query_empty(ahead.tile()), ahead.emptied());
    const int begin = S::kRows / kStep * warp / S::kMakers * kStep;
    const int end = S::kRows / kStep * (warp + 1) / S::kMakers * kStep;
    unsigned char* const to = memory + ahead.tile() * S::kQueryTile;
    if (rows.weights() && state == kBase) {
      rows.template turn<kTurned>(to, begin, end, memory + S::kBase);
    } else if (rows.ready()) {
      rows.template copy<kTurned>(to, begin, end);
    } else {
      rows.template make<kMade>(to, begin, end, memory + S::kBase);
      if (rows.weights()) state = kBase;
    }
    publish_shared();
    __syncwarp();
    if (lane == 0) barrier_arrive(barriers.query_full(ahead.tile()));
    ahead.advance();
  }

 private:
  __device__ __forceinline__ void store_nothing(const AttentionStream& stream, const Visit& visit) const {
    const int begin = visit.query_block * S::kRows, end = min(begin + S::kRows, stream.tokens);
#pragma unroll 1
    for (int token = begin + warp; token < end; token += S::kMakers) {
      const int64_t row = int64_t{token} * stream.heads + visit.head;
      if (lane < kDim / 8) static_cast<uint4*>(stream.out)[row * (kDim / 8) + lane] = make_uint4(0, 0, 0, 0);
      if (stream.lse && lane == 0) stream.lse[row] = -INFINITY;
    }
  }
};

}  // namespace streamchar::cuda::hopper_attention
