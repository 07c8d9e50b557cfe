// The producer warpgroup of segment_attention_sm90.cu: fetches tiles of keys and values, or makes them of narrow ones;
// and makes the queries that meet them.
#pragma once

#include "kernels/cuda/hopper_attention.cuh"
#include "kernels/cuda/hopper_queries.cuh"
#include "kernels/cuda/narrow.cuh"

namespace streamchar::cuda::hopper_attention {

template <int kDim>
__device__ __forceinline__ void fetch_tile(uint32_t target, const CUtensorMap* map, uint32_t barrier, int row,
                                           int head) {
  barrier_expect(barrier, Shape<kDim, false>::kTile);
#pragma unroll
  for (int b = 0; b < kDim / kBlockColumns; ++b) {
    copy_box(target + b * kKeys * kBlockRowBytes, map, barrier, b * kBlockColumns, row, head);
  }
}

// What the first thread of the producer does beside the tiles: plans visits, a visit ahead, and notes tiles.
template <typename S>
struct Scribe {
  const Problem& problem;
  Notes<S> notes;
  Barriers<S> barriers;
  Ring<kNotedVisits> visit;  // the next to be planned

  __device__ __forceinline__ void begin() {
    notes.planner().begin();
    plan();
  }
  __device__ __forceinline__ void plan() {
    barrier_wait(barriers.visit_empty(visit.stage), visit.parity ^ 1);
    notes.planner().template advance<kNotedParts>(problem.call, problem.split, notes.parts(), notes.visits()[visit.stage]);
    barrier_arrive(barriers.visit_full(visit.stage));
    visit.advance();
  }
  // Tile `index` of a visit, which begins with key `first`, before it is announced in the stage.
  __device__ __forceinline__ void tile(int stage, const Visit& of, int index, int first, float value_unit) const {
    notes.tiles()[stage] = TileNote::of(index ? 0 : of.opens * TileNote::kNewPart + TileNote::kNewQueries,
                                        min(problem.call.segments[of.listed].rows - first, kKeys), of.part, value_unit);
  }
  __device__ __forceinline__ void end(int stage) const { notes.tiles()[stage] = TileNote::of(TileNote::kEnd, 0, 0, 0.0f); }
};

// Fetches bfloat16 tiles; one thread.
template <int kDim>
__device__ __forceinline__ void fetch_all(const Problem& problem, unsigned char* memory, uint32_t shared) {
  using S = Shape<kDim, false>;
  const Barriers<S> barriers{shared + S::kBarriers};
  Scribe<S> scribe{problem, {memory}, barriers};
  Ring<S::kStages> key;
  Ring<S::kStages> value;
  scribe.begin();
#pragma unroll 1
  for (int at = 0;; at = (at + 1) % kNotedVisits) {
    const Visit visit = scribe.notes.visits()[at];
    if (visit.kind == Visit::kEnd) break;
    scribe.plan();
#pragma unroll 1
    for (int i = 0; i < visit.tiles; ++i) {
      const int first = visit.first + i * kKeys;
      // A barrier that has not been used yet lets parity 1 pass.
      barrier_wait(barriers.key_empty(key.stage), key.parity ^ 1);
      scribe.tile(key.stage, visit, i, first, 1.0f);
      fetch_tile<kDim>(shared + S::kKeyTiles + key.stage * S::kTile, &problem.keys[visit.listed],
                       barriers.key_full(key.stage), first, visit.head);
      barrier_wait(barriers.value_empty(value.stage), value.parity ^ 1);
      fetch_tile<kDim>(shared + S::kValueTiles + value.stage * S::kTile, &problem.values[visit.listed],
                       barriers.value_full(value.stage), first, visit.head);
      key.advance();
      value.advance();
    }
  }
  barrier_wait(barriers.key_empty(key.stage), key.parity ^ 1);
  scribe.end(key.stage);
  barrier_arrive(barriers.key_full(key.stage));
}

// Makes the queries that bfloat16 tiles meet; a warp of kMakers.
template <int kDim>
__device__ __forceinline__ void make_all_queries(const Problem& problem, unsigned char* memory, uint32_t shared,
                                                 int warp) {
  using S = Shape<kDim, false>;
  const Barriers<S> barriers{shared + S::kBarriers};
  QueryMaker<kDim, false> queries{problem, memory, shared, warp, static_cast<int>(threadIdx.x % 32)};
#pragma unroll 1
  for (Ring<kNotedVisits> at;; at.advance()) {
    barrier_wait(barriers.visit_full(at.stage), at.parity);
    const Visit& visit = Notes<S>{memory}.visits()[at.stage];
    if (visit.kind == Visit::kEnd) break;
    queries.meet(visit);
    barrier_arrive(barriers.visit_empty(at.stage));
  }
}

// A narrow tile on its way through the registers of the producer warpgroup. A thread has one 16-byte piece of every
// kStep-th row.
template <int kDim>
struct NarrowTile {
  static constexpr int kPieces = kDim / 16;
  static constexpr int kStep = 128 / kPieces;  // a multiple of eight: the swizzle of a thread's rows is the same
  static constexpr int kLoads = kKeys / kStep;
  uint4 piece[kLoads];

  __device__ __forceinline__ void load(const TokenView& view, int rows, int first, int head) {
    const int left = rows - first - static_cast<int>(threadIdx.x) / kPieces;
    const auto* source = static_cast<const unsigned char*>(view.data) + head * view.head_stride +
                         (first + threadIdx.x / kPieces) * view.token_stride + threadIdx.x % kPieces * 16;
    const int64_t step = kStep * view.token_stride;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      piece[i] = make_uint4(0, 0, 0, 0);
      if (left > i * kStep) piece[i] = __ldg(reinterpret_cast<const uint4*>(source));
      source += step;
    }
  }

  template <bool kFloat8>
  __device__ __forceinline__ void store(unsigned char* tile) const {
    const int row = threadIdx.x / kPieces, column = threadIdx.x % kPieces * 16;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      // Threads of the upper 64 channels begin with their second half: the eight of a row meet eight different banks.
      const bool high = j != column / kBlockColumns;
      unsigned char* to = tile + hopper::tile_offset(kKeys, row, column + high * 8);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        *reinterpret_cast<uint4*>(to + i * kStep * kBlockRowBytes) =
            narrow_to_f16<kFloat8>(high ? piece[i].z : piece[i].x, high ? piece[i].w : piece[i].y);
      }
    }
  }
};

// Makes float16 tiles of narrow ones; the whole producer warpgroup.
template <int kDim, bool kFloat8>
__device__ __forceinline__ void convert_all(const Problem& problem, unsigned char* memory, uint32_t shared) {
  using S = Shape<kDim, true>;
  const Barriers<S> barriers{shared + S::kBarriers};
  const auto filled = [](uint32_t barrier) {
    publish_shared();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
  };
  const bool scribes = threadIdx.x == 0;
  Scribe<S> scribe{problem, {memory}, barriers};
  QueryMaker<kDim, true> queries{problem, memory, shared, static_cast<int>(threadIdx.x / 32),
                                 static_cast<int>(threadIdx.x % 32)};
  Ring<S::kStages> key;
  Ring<S::kStages> value;
  if (scribes) scribe.begin();
#pragma unroll 1
  for (Ring<kNotedVisits> at;; at.advance()) {
    __syncwarp();
    barrier_wait(barriers.visit_full(at.stage), at.parity);
    const Visit& visit = scribe.notes.visits()[at.stage];
    if (visit.kind == Visit::kEnd) break;
    if (scribes) scribe.plan();
    __syncwarp();
    queries.meet(visit);
    const Segment& segment = problem.call.segments[visit.listed];
    NarrowTile<kDim> tile;
    if (visit.tiles > 0) tile.load(segment.key, segment.rows, visit.first, visit.head);
#pragma unroll 1
    for (int i = 0; i < visit.tiles; ++i) {
      const int first = visit.first + i * kKeys;
      barrier_wait(barriers.key_empty(key.stage), key.parity ^ 1);
      if (scribes) {
        const float unit = from_storage_factor(problem.call.storage, segment.value_range[visit.head]);
        scribe.tile(key.stage, visit, i, first, unit);
      }
      tile.template store<kFloat8>(memory + S::kKeyTiles + key.stage * S::kTile);
      filled(barriers.key_full(key.stage));
      tile.load(segment.value, segment.rows, first, visit.head);
      barrier_wait(barriers.value_empty(value.stage), value.parity ^ 1);
      tile.template store<kFloat8>(memory + S::kValueTiles + value.stage * S::kTile);
      filled(barriers.value_full(value.stage));
      key.advance();
      value.advance();
      if (i + 1 < visit.tiles) tile.load(segment.key, segment.rows, first + kKeys, visit.head);
    }
    barrier_arrive(barriers.visit_empty(at.stage));
  }
  barrier_wait(barriers.key_empty(key.stage), key.parity ^ 1);
  if (scribes) scribe.end(key.stage);
  filled(barriers.key_full(key.stage));
}

}  // namespace streamchar::cuda::hopper_attention
