// segment_attention for Hopper (sm_90a): bulk tensor copies, wgmma, warp-specialised warpgroups, persistent blocks.
// See cuda_calls.h for its state.
//
// A tile is 64 query rows of one head per consumer warpgroup. The grid is one block per multiprocessor, and
// work_split.h divides the key blocks of all tiles of all streams evenly among them; parts of a tile that was split
// meet in the workspace (attention_rows.cuh). The producer warpgroup runs through the same parts on its own, so
// the next part's keys arrive while the consumers finish with the one before.
//
// bfloat16 keys and values: one producer thread fetches tiles of 128 through a ring of stages with bulk tensor copies,
// straight from where the cache has them; every segment has a tensor map of its own, so rows beyond its end arrive as
// zeros. Narrow ones: the producer warpgroup reads them, makes them float16 (exactly) and stores them where the copies
// would have put them; their ranges go into the queries and, between segments, into the sums.
//
// Consumers overlap: while the weighted values of tile i - 1 are summed, the softmax of tile i runs. Queries are
// normalised and rotated once per part, and kept in float32; where a segment begins, each warpgroup shifts its rows and
// rounds them once into the tile that wgmma reads.
//
// Who may touch what, when:
//   - A stage: filled after `empty` completed a phase (every consumer warp arrived, after wgmma.wait_group said that its
//     reads are done), read after `full` did (the copy's bytes are there, or all four producer warps arrived). Both sides
//     count stages and phases over all parts without a break.
//   - Ordinary stores that wgmma reads (queries, narrow tiles): each writing thread fences towards the async proxy
//     before the barrier that its reader waits on.
//   - A warpgroup's queries: rewritten between two barriers of the warpgroup, with none of its products open.
//   - Queries in float32: each thread reads back what it wrote itself.
#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/hopper_layout.h"
#include "kernels/cuda/key_walk.cuh"
#include "kernels/cuda/narrow.cuh"
#include "kernels/cuda/token_row.cuh"

namespace streamchar::cuda {
namespace {

using hopper::kBlockColumns;
using hopper::kBlockRowBytes;

constexpr int kKeys = 128;  // keys per tile

using Walk = KeyWalk<kKeys>;

template <int kDim, bool kNarrow>
struct Shape {
  static constexpr int kGroups = kDim == 128 || kNarrow ? 2 : 3;  // consumer warpgroups
  static constexpr int kStages = kDim == 128 ? 2 : 3;
  static constexpr int kRows = 64 * kGroups;                    // queries per tile
  static constexpr int kThreads = 128 * (kGroups + 1);
  // One thread that issues copies needs few registers, a warpgroup that converts more.
  static constexpr int kProducerRegisters = kNarrow ? 88 : kDim == 128 ? 24 : 32;
  static constexpr int kConsumerRegisters = kNarrow ? 208 : kDim == 128 ? 240 : 160;
  // What the block starts with is all there is to share out: asking for more would wait for ever.
  static_assert(128 * (kProducerRegisters + kGroups * kConsumerRegisters) <= 65536 / kThreads / 8 * 8 * kThreads);

  // Shared memory, in bytes from its start. Tiles begin at multiples of 1024.
  static constexpr uint32_t kGroupTile = 64 * kDim * 2;         // one warpgroup's queries
  static constexpr uint32_t kTile = kKeys * kDim * 2;
  static constexpr uint32_t kKeyTiles = kGroups * kGroupTile;
  static constexpr uint32_t kValueTiles = kKeyTiles + kStages * kTile;
  static constexpr uint32_t kBase = kValueTiles + kStages * kTile;  // float [kRows][kDim]: queries
  static constexpr uint32_t kBarriers = kBase + kRows * kDim * 4;   // full and empty, of keys and values
  static constexpr uint32_t kBytes = kBarriers + 4 * kStages * 8;
};

struct Problem {
  CUtensorMap keys[kMaxListed];  // of bfloat16 segments
  CUtensorMap values[kMaxListed];
  SegmentAttention call;
  Split split;
};

template <int kStages>
struct Barriers {
  uint32_t first;
  __device__ uint32_t key_full(int stage) const { return first + stage * 8; }
  __device__ uint32_t key_empty(int stage) const { return first + (kStages + stage) * 8; }
  __device__ uint32_t value_full(int stage) const { return first + (2 * kStages + stage) * 8; }
  __device__ uint32_t value_empty(int stage) const { return first + (3 * kStages + stage) * 8; }
};

// Place in the ring of stages, and the parity of its phase.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <int kDim>
__device__ __forceinline__ void fetch_tile(uint32_t target, const CUtensorMap* map, uint32_t barrier, int row,
                                           int head) {
  barrier_expect(barrier, Shape<kDim, false>::kTile);
#pragma unroll
  for (int b = 0; b < kDim / kBlockColumns; ++b) {
    copy_box(target + b * kKeys * kBlockRowBytes, map, barrier, b * kBlockColumns, row, head);
  }
}

// Fetches bfloat16 tiles; one thread.
template <int kDim>
__device__ __forceinline__ void fetch_all(const Problem& problem, uint32_t shared) {
  using S = Shape<kDim, false>;
  const Barriers<S::kStages> barriers{shared + S::kBarriers};
  Ring<S::kStages> ring;
  const uint32_t end = problem.split.start(blockIdx.x + 1);
#pragma unroll 1
  for (uint32_t unit = problem.split.start(blockIdx.x); unit < end;) {
    const WorkPart part = problem.split.part(blockIdx.x, unit);
    unit += part.end - part.begin;
    Walk walk(problem.call, part);
#pragma unroll 1
    for (int i = 0; i < walk.tiles; ++i) {
      // A barrier that has not been used yet lets parity 1 pass.
      barrier_wait(barriers.key_empty(ring.stage), ring.parity ^ 1);
      fetch_tile<kDim>(shared + S::kKeyTiles + ring.stage * S::kTile, &problem.keys[walk.listed()],
                       barriers.key_full(ring.stage), walk.at.first, part.head);
      barrier_wait(barriers.value_empty(ring.stage), ring.parity ^ 1);
      fetch_tile<kDim>(shared + S::kValueTiles + ring.stage * S::kTile, &problem.values[walk.listed()],
                       barriers.value_full(ring.stage), walk.at.first, part.head);
      ring.advance();
      walk.advance();
    }
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

  __device__ __forceinline__ void load(const TokenView& view, int head, const TileCursor<kKeys>& at) {
    int left = at.keys - static_cast<int>(threadIdx.x) / kPieces;
    const auto* source = static_cast<const unsigned char*>(view.data) + head * view.head_stride +
                         (at.first + threadIdx.x / kPieces) * view.token_stride + threadIdx.x % kPieces * 16;
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
  const Barriers<S::kStages> barriers{shared + S::kBarriers};
  const auto filled = [](uint32_t barrier) {
    publish_shared();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
  };
  Ring<S::kStages> ring;
  NarrowTile<kDim> tile;
  const uint32_t end = problem.split.start(blockIdx.x + 1);
#pragma unroll 1
  for (uint32_t unit = problem.split.start(blockIdx.x); unit < end;) {
    const WorkPart part = problem.split.part(blockIdx.x, unit);
    unit += part.end - part.begin;
    Walk walk(problem.call, part);
    if (walk.tiles) tile.load(walk.segment().key, part.head, walk.at);
#pragma unroll 1
    for (int i = 0; i < walk.tiles; ++i) {
      barrier_wait(barriers.key_empty(ring.stage), ring.parity ^ 1);
      tile.template store<kFloat8>(memory + S::kKeyTiles + ring.stage * S::kTile);
      filled(barriers.key_full(ring.stage));
      tile.load(walk.segment().value, part.head, walk.at);
      barrier_wait(barriers.value_empty(ring.stage), ring.parity ^ 1);
      tile.template store<kFloat8>(memory + S::kValueTiles + ring.stage * S::kTile);
      filled(barriers.value_full(ring.stage));
      ring.advance();
      walk.advance();
      if (i + 1 < walk.tiles) tile.load(walk.segment().key, part.head, walk.at);
    }
  }
}

// One consumer warpgroup's state: 64 rows, of which a thread has two, and their running softmax.
template <int kDim, bool kNarrow>
struct Consumer {
  using S = Shape<kDim, kNarrow>;

  const Problem& problem;
  unsigned char* memory;  // shared memory's start, and its address for the asynchronous units
  uint32_t shared;
  int group;              // 0 to kGroups - 1
  int thread;             // 0 to 127
  float scale;            // of logits, to base 2
  Ring<S::kStages> key, value;

  const AttentionStream* stream;
  int head;
  int first_row;          // token of the warpgroup's first row
  float unit;             // what the sums are multiples of: the range of narrow values, per step
  float logits[kKeys / 2];
  AttentionRows<kDim> rows;
  uint32_t weights[kKeys / 16][4];
  float factor[2];

  __device__ __forceinline__ Barriers<S::kStages> barriers() const { return {shared + S::kBarriers}; }
  __device__ __forceinline__ int lane() const { return thread & 31; }
  __device__ __forceinline__ Pair* base(int row) const {
    return reinterpret_cast<Pair*>(memory + S::kBase) + (group * 64 + row) * (kDim / 2);
  }
  // One arrival per warp.
  __device__ __forceinline__ void release(uint32_t barrier) const {
    if (lane() == 0) barrier_arrive(barrier);
  }

  __device__ __forceinline__ void begin(const WorkPart& part) {
    stream = &problem.call.streams[part.stream];
    head = part.head;
    first_row = part.query_block * S::kRows + group * 64;
    unit = 1.0f;
    rows.clear();
#pragma unroll 4
    for (int r = 0; r < 16; ++r) {
      const int row = thread / 32 * 16 + r, token = min(first_row + row, stream->tokens - 1);
      Pair x[kDim / 64];
      base_row<kDim>(*stream, token, head, lane(), x);
#pragma unroll
      for (int i = 0; i < kDim / 64; ++i) base(row)[lane() + 32 * i] = x[i];
    }
  }

  // The queries of a segment, into the warpgroup's tile. All of this warp's products must be done. Returns what the
  // sums so far are to be multiplied by.
  __device__ __forceinline__ float make_queries(const Segment& segment) {
    group_sync(1 + group);  // the other warps' products too
    const bool moved = segment.moved && stream->moved.data;
    const auto* shift = reinterpret_cast<const Pair*>(moved ? nullptr : segment.shift);
    Pair turn[kDim / 64];
#pragma unroll
    for (int i = 0; i < kDim / 64; ++i) turn[i] = shift ? shift[lane() + 32 * i] : Pair{1.0f, 0.0f};
    float ratio = 1.0f;
    if constexpr (kNarrow) {
      const KvStorage storage = problem.call.storage;
      const float key_unit = from_storage_factor(storage, segment.key_range[head]);
      const float value_unit = from_storage_factor(storage, segment.value_range[head]);
#pragma unroll
      for (int i = 0; i < kDim / 64; ++i) turn[i] = {turn[i].x * key_unit, turn[i].y * key_unit};
      ratio = unit / value_unit;
      unit = value_unit;
    }
#pragma unroll 4
    for (int r = 0; r < 16; ++r) {
      const int row = thread / 32 * 16 + r;
      const uint32_t* ready =
          moved ? head_row(stream->moved, min(first_row + row, stream->tokens - 1), head) : nullptr;
#pragma unroll
      for (int i = 0; i < kDim / 64; ++i) {
        const int pair = lane() + 32 * i;
        const Pair x = rotate_pair(moved ? unpack_bf16(ready[pair]) : base(row)[pair], turn[i]);
        *reinterpret_cast<uint32_t*>(memory + group * S::kGroupTile + hopper::tile_offset(64, row, 2 * pair)) =
            pack<kNarrow>(x.x, x.y);
      }
    }
    publish_shared();
    group_sync(1 + group);
    return ratio;
  }

  __device__ __forceinline__ void start_logits() {
    const uint32_t queries = shared + group * S::kGroupTile, keys = shared + S::kKeyTiles + key.stage * S::kTile;
    barrier_wait(barriers().key_full(key.stage), key.parity);
    pin(logits);
    multiply_begin();
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      multiply_rows<kNarrow>(logits, hopper::row_operand(queries + hopper::row_operand_step(64, k)),
                             hopper::row_operand(keys + hopper::row_operand_step(kKeys, k)), k != 0);
    }
    multiply_commit();
  }

  // After the wait for the logits' products.
  __device__ __forceinline__ void logits_done() {
    pin(logits);
    release(barriers().key_empty(key.stage));
    key.advance();
  }

  __device__ __forceinline__ void start_values() {
    const uint32_t values = shared + S::kValueTiles + value.stage * S::kTile;
    barrier_wait(barriers().value_full(value.stage), value.parity);
    pin(rows.sum);
    multiply_begin();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      multiply_columns<kNarrow>(rows.sum, weights[k],
                                hopper::column_operand(values + hopper::column_operand_step(k), kKeys));
    }
    multiply_commit();
  }

  // Waits for the weighted values.
  __device__ __forceinline__ void values_done() {
    multiply_wait<0>();
    pin(rows.sum);
    release(barriers().value_empty(value.stage));
    value.advance();
  }

  // Turns the logits of `keys` keys into weights; `factor` is what earlier sums are to be multiplied by.
  __device__ __forceinline__ void softmax(int keys) {
    if (keys < kKeys) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        if (hopper::result_column(thread, i) >= keys) logits[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = rows.maximum[r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(logits[4 * n + 2 * r], logits[4 * n + 2 * r + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      factor[r] = exp2_fast((rows.maximum[r] - top) * scale);
      rows.maximum[r] = top;
      rows.denominator[r] *= factor[r];
      const float offset = top * scale;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 4 * n + 2 * r; e < 4 * n + 2 * r + 2; ++e) {
          logits[e] = exp2_fast(logits[e] * scale - offset);
          rows.denominator[r] += logits[e];
        }
      }
    }
  }

  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[k][i] = pack<kNarrow>(logits[8 * k + 2 * i], logits[8 * k + 2 * i + 1]);
    }
  }

  __device__ __forceinline__ void attend(Walk& walk) {
    if (walk.tiles == 0) return;
    make_queries(walk.segment());
    start_logits();
    multiply_wait<0>();
    logits_done();
    softmax(walk.at.keys);
    pack_weights();
#pragma unroll 1
    for (int i = 1; i < walk.tiles; ++i) {
      walk.advance();
      float ratio = 1.0f;
      if (walk.at.starts_segment()) ratio = make_queries(walk.segment());
      start_logits();
      start_values();
      multiply_wait<1>();  // the logits
      logits_done();
      softmax(walk.at.keys);
      values_done();
      pack_weights();
      if constexpr (kNarrow) {
        factor[0] *= ratio;
        factor[1] *= ratio;
      }
      rows.multiply(factor);
    }
    start_values();
    values_done();
  }

  __device__ __forceinline__ void finish(const WorkPart& part) {
    const int warp = group * 4 + thread / 32;
    rows.finish(kNarrow ? unit : 1.0f);
    if (part.split()) {
      constexpr PartialLayout kLayout{S::kGroups * 4, kDim};
      if (!rows.merge(problem.call.workspace, kLayout, problem.split, part, warp, lane(), scale)) return;
    }
    rows.store(*stream, head, first_row + thread / 32 * 16, lane(), scale);
  }
};

template <int kDim, bool kNarrow>
__global__ void __launch_bounds__(Shape<kDim, kNarrow>::kThreads, 1)
    segment_attention_kernel(const __grid_constant__ Problem problem) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using S = Shape<kDim, kNarrow>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const uint32_t shared = shared_address(memory);
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);

  if (threadIdx.x == 0) {
    const Barriers<S::kStages> barriers{shared + S::kBarriers};
    for (int stage = 0; stage < S::kStages; ++stage) {
      barrier_init(barriers.key_full(stage), kNarrow ? 4 : 1);  // producer warps, or the thread that expects copies
      barrier_init(barriers.value_full(stage), kNarrow ? 4 : 1);
      barrier_init(barriers.key_empty(stage), 4 * S::kGroups);  // consumer warps
      barrier_init(barriers.value_empty(stage), 4 * S::kGroups);
    }
    barrier_init_done();
  }
  __syncthreads();

  if (group == 0) {
    give_registers<S::kProducerRegisters>();
    if constexpr (kNarrow) {
      if (problem.call.storage == KvStorage::kFloat8) {
        convert_all<kDim, true>(problem, memory, shared);
      } else {
        convert_all<kDim, false>(problem, memory, shared);
      }
    } else {
      if (threadIdx.x == 0) fetch_all<kDim>(problem, shared);
    }
  } else {
    take_registers<S::kConsumerRegisters>();
    Consumer<kDim, kNarrow> consumer{problem, memory, shared, group - 1, static_cast<int>(threadIdx.x % 128),
                                     kLog2E * rsqrtf(static_cast<float>(kDim))};
    const uint32_t end = problem.split.start(blockIdx.x + 1);
#pragma unroll 1
    for (uint32_t unit = problem.split.start(blockIdx.x); unit < end;) {
      const WorkPart part = problem.split.part(blockIdx.x, unit);
      unit += part.end - part.begin;
      Walk walk(problem.call, part);
      consumer.begin(part);
      consumer.attend(walk);
      consumer.finish(part);
    }
  }
#endif
}

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's function, found at run time so that the library loads without a driver; null before CUDA 12.
EncodeTiled encode_tiled() {
  static const EncodeTiled found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(function)
                                                                         : nullptr;
  }();
  return found;
}

// Boxes of 64 channels and kKeys rows of one head.
bool make_map(CUtensorMap& map, const TokenView& view, int rows, int heads, int head_dim) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(head_dim), static_cast<cuuint64_t>(rows),
                              static_cast<cuuint64_t>(heads)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(view.token_stride) * 2,
                                static_cast<cuuint64_t>(view.head_stride) * 2};
  const cuuint32_t box[] = {kBlockColumns, kKeys, 1}, steps[] = {1, 1, 1};
  const EncodeTiled encode = encode_tiled();
  return encode && encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(view.data), sizes, strides, box,
                          steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                          CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int kDim, bool kNarrow>
int launch(const SegmentAttention& call, int processors, cudaStream_t stream) {
  using S = Shape<kDim, kNarrow>;
  Problem problem{};
  problem.call = call;
  StreamWork work[kMaxStreams];
  for (int i = 0; i < call.stream_count; ++i) {
    const AttentionStream& of = call.streams[i];
    work[i] = Walk::work(call, i, S::kRows);
    for (int s = of.first_segment; s < of.first_segment + of.segment_count && !kNarrow; ++s) {
      const Segment& segment = call.segments[s];
      if (segment.rows > 0 && (!make_map(problem.keys[s], segment.key, segment.rows, of.heads, kDim) ||
                               !make_map(problem.values[s], segment.value, segment.rows, of.heads, kDim))) {
        return cudaErrorNotSupported;
      }
    }
  }
  const int room = PartialLayout{S::kGroups * 4, kDim}.grid_within(call.workspace_bytes);
  problem.split = Split::make(work, call.stream_count, processors < room ? processors : room);
  if (problem.split.grid == 0) return problem.split.total() == 0 ? cudaSuccess : cudaErrorInvalidValue;

  const auto kernel = segment_attention_kernel<kDim, kNarrow>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kBytes);
  if (error != cudaSuccess) return error;
  kernel<<<problem.split.grid, S::kThreads, S::kBytes, stream>>>(problem);
  return cudaGetLastError();
}

}  // namespace

int segment_attention_sm90(const SegmentAttention& call, int processors, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const bool narrow = is_narrow(call.storage);
  if (call.head_dim == 64) return narrow ? launch<64, true>(call, processors, on) : launch<64, false>(call, processors, on);
  if (call.head_dim == 128) {
    return narrow ? launch<128, true>(call, processors, on) : launch<128, false>(call, processors, on);
  }
  return cudaErrorInvalidValue;
}

int segment_attention_workspace_sm90(int head_dim, KvStorage storage, int processors, int64_t& bytes) {
  if (head_dim != 64 && head_dim != 128) return cudaErrorInvalidValue;
  bytes = PartialLayout{head_dim == 64 && !is_narrow(storage) ? 12 : 8, head_dim}.bytes(processors);
  return cudaSuccess;
}

}  // namespace streamchar::cuda
