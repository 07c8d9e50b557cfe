// segment_attention for Hopper (sm_90a): bulk tensor copies, wgmma, warp-specialised warpgroups. See cuda_calls.h
// for its state.
//
// A block does 64 query rows of one head per consumer warpgroup. One producer thread fetches key and value tiles
// of 128 through a ring of stages, straight from where the cache has them: every segment has a tensor map of its
// own, so rows beyond its end arrive as zeros. Consumers overlap: while the weighted values of tile i - 1 are
// summed, the softmax of tile i runs.
//
// Queries are normalised and rotated once, and kept in float32; where a segment begins, each warpgroup shifts its
// rows and rounds them once into the tile that wgmma reads.
//
// Where there are too few query tiles to fill the GPU, the blocks of a cluster divide the keys, and each merges a
// part of the rows, over the blocks in rising order: for a shape and device results repeat to the bit.
#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/hopper_layout.h"
#include "kernels/cuda/token_row.cuh"
#include "kernels/tiles.h"

namespace streamchar::cuda {
namespace {

using hopper::kBlockColumns;
using hopper::kBlockRowBytes;

constexpr int kKeys = 128;  // keys per tile
constexpr float kLog2E = 1.4426950408889634f;

using Cursor = TileCursor<kKeys>;

template <int kDim>
struct Shape {
  static constexpr int kGroups = kDim == 128 ? 2 : 3;          // consumer warpgroups
  static constexpr int kStages = kDim == 128 ? 2 : 3;
  static constexpr int kRows = 64 * kGroups;                    // queries per block
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kProducerRegisters = kDim == 128 ? 24 : 32;
  static constexpr int kConsumerRegisters = kDim == 128 ? 240 : 160;

  // Shared memory, in bytes from its start. Tiles begin at multiples of 1024.
  static constexpr uint32_t kGroupTile = 64 * kDim * 2;         // one warpgroup's queries
  static constexpr uint32_t kTile = kKeys * kDim * 2;
  static constexpr uint32_t kKeyTiles = kGroups * kGroupTile;
  static constexpr uint32_t kValueTiles = kKeyTiles + kStages * kTile;
  static constexpr uint32_t kBase = kValueTiles + kStages * kTile;  // float [kRows][kDim]: queries, then sums
  static constexpr uint32_t kMaximum = kBase + kRows * kDim * 4;    // float [kRows]
  static constexpr uint32_t kDenominator = kMaximum + kRows * 4;    // float [kRows]
  static constexpr uint32_t kBarriers = kDenominator + kRows * 4;   // full and empty, of keys and values
  static constexpr uint32_t kBytes = kBarriers + 4 * kStages * 8;
};

struct Problem {
  CUtensorMap keys[kMaxSegments];
  CUtensorMap values[kMaxSegments];
  SegmentAttention call;
  int ranks;  // blocks that divide the keys of one tile of queries
};

template <int kDim>
struct Barriers {
  uint32_t first;
  __device__ uint32_t key_full(int stage) const { return first + stage * 8; }
  __device__ uint32_t key_empty(int stage) const { return first + (Shape<kDim>::kStages + stage) * 8; }
  __device__ uint32_t value_full(int stage) const { return first + (2 * Shape<kDim>::kStages + stage) * 8; }
  __device__ uint32_t value_empty(int stage) const { return first + (3 * Shape<kDim>::kStages + stage) * 8; }
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
  barrier_expect(barrier, Shape<kDim>::kTile);
#pragma unroll
  for (int b = 0; b < kDim / kBlockColumns; ++b) {
    copy_box(target + b * kKeys * kBlockRowBytes, map, barrier, b * kBlockColumns, row, head);
  }
}

template <int kDim>
__device__ __forceinline__ void produce(const Problem& problem, uint32_t shared, Barriers<kDim> barriers, Cursor at,
                                        int tiles, int head) {
  using S = Shape<kDim>;
  const auto rows_of = [&](int segment) { return problem.call.segments[segment].rows; };
  Ring<S::kStages> ring;
  for (int i = 0; i < tiles; ++i) {
    // A barrier that has not been used yet lets parity 1 pass.
    barrier_wait(barriers.key_empty(ring.stage), ring.parity ^ 1);
    fetch_tile<kDim>(shared + S::kKeyTiles + ring.stage * S::kTile, &problem.keys[at.segment],
                     barriers.key_full(ring.stage), at.first, head);
    barrier_wait(barriers.value_empty(ring.stage), ring.parity ^ 1);
    fetch_tile<kDim>(shared + S::kValueTiles + ring.stage * S::kTile, &problem.values[at.segment],
                     barriers.value_full(ring.stage), at.first, head);
    ring.advance();
    at.advance(rows_of, problem.call.segment_count);
  }
}

// One consumer warpgroup's state: 64 rows, of which a thread has two (result_row), and their running softmax.
template <int kDim>
struct Consumer {
  using S = Shape<kDim>;

  const Problem& problem;
  unsigned char* memory;  // shared memory's start, and its address for the asynchronous units
  uint32_t shared;
  int group;              // 0 to kGroups - 1
  int thread;             // 0 to 127
  int first_row;          // token of the warpgroup's first row
  int head;
  float logits[kKeys / 2];
  float sum[kDim / 2];
  uint32_t weights[kKeys / 16][4];
  float maximum[2] = {-INFINITY, -INFINITY};
  float denominator[2] = {0.0f, 0.0f};
  float factor[2];

  __device__ __forceinline__ Pair* base(int row) const {
    return reinterpret_cast<Pair*>(memory + S::kBase) + (group * 64 + row) * (kDim / 2);
  }

  __device__ __forceinline__ void prepare() {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) sum[i] = 0.0f;
    const int lane = thread & 31;
    const SegmentAttention& call = problem.call;
#pragma unroll 4
    for (int r = 0; r < 16; ++r) {
      const int row = thread / 32 * 16 + r, token = min(first_row + row, call.tokens - 1);
      Pair x[kDim / 64];
      base_row<kDim>(call.q, call.norm, call.rope, token, head, lane, x);
#pragma unroll
      for (int i = 0; i < kDim / 64; ++i) base(row)[lane + 32 * i] = x[i];
    }
  }

  // The queries of a segment, into the warpgroup's tile. All of this warp's products must be done.
  __device__ __forceinline__ void make_queries(int segment) {
    const int lane = thread & 31;
    group_sync(1 + group);  // the other warps' products too
    const auto* shift = reinterpret_cast<const Pair*>(problem.call.segments[segment].shift);
    Pair turn[kDim / 64];
#pragma unroll
    for (int i = 0; i < kDim / 64; ++i) turn[i] = shift ? shift[lane + 32 * i] : Pair{1.0f, 0.0f};
#pragma unroll 4
    for (int r = 0; r < 16; ++r) {
      const int row = thread / 32 * 16 + r;
#pragma unroll
      for (int i = 0; i < kDim / 64; ++i) {
        const int pair = lane + 32 * i;
        const Pair x = rotate_pair(base(row)[pair], turn[i]);
        *reinterpret_cast<uint32_t*>(memory + group * S::kGroupTile + hopper::tile_offset(64, row, 2 * pair)) =
            pack_bf16(x.x, x.y);
      }
    }
    publish_shared();
    group_sync(1 + group);
  }

  __device__ __forceinline__ void start_logits(int stage) {
    const uint32_t queries = shared + group * S::kGroupTile, keys = shared + S::kKeyTiles + stage * S::kTile;
    pin(logits);
    multiply_begin();
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      multiply_rows(logits, hopper::row_operand(queries + hopper::row_operand_step(64, k)),
                    hopper::row_operand(keys + hopper::row_operand_step(kKeys, k)), k != 0);
    }
    multiply_commit();
  }

  __device__ __forceinline__ void start_values(int stage) {
    const uint32_t values = shared + S::kValueTiles + stage * S::kTile;
    pin(sum);
    multiply_begin();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      multiply_columns(sum, weights[k], hopper::column_operand(values + hopper::column_operand_step(k), kKeys));
    }
    multiply_commit();
  }

  // Turns the logits of `keys` keys into weights; `factor` is what earlier sums are to be multiplied by.
  __device__ __forceinline__ void softmax(int keys, float scale) {
    if (keys < kKeys) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        if (hopper::result_column(thread, i) >= keys) logits[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = maximum[r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(logits[4 * n + 2 * r], logits[4 * n + 2 * r + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      factor[r] = exp2_fast((maximum[r] - top) * scale);
      maximum[r] = top;
      denominator[r] *= factor[r];
      const float offset = top * scale;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 4 * n + 2 * r; e < 4 * n + 2 * r + 2; ++e) {
          logits[e] = exp2_fast(logits[e] * scale - offset);
          denominator[r] += logits[e];
        }
      }
    }
  }

  __device__ __forceinline__ void pack_weights() {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[k][i] = pack_bf16(logits[8 * k + 2 * i], logits[8 * k + 2 * i + 1]);
    }
  }

  __device__ __forceinline__ void rescale() {
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      sum[4 * n] *= factor[0];
      sum[4 * n + 1] *= factor[0];
      sum[4 * n + 2] *= factor[1];
      sum[4 * n + 3] *= factor[1];
    }
  }

  __device__ __forceinline__ void attend(Barriers<kDim> barriers, Cursor at, int tiles, float scale) {
    if (tiles == 0) return;
    const auto rows_of = [&](int segment) { return problem.call.segments[segment].rows; };
    Ring<S::kStages> key, value;
    make_queries(at.segment);
    barrier_wait(barriers.key_full(key.stage), key.parity);
    start_logits(key.stage);
    multiply_wait<0>();
    pin(logits);
    if (thread == 0) barrier_arrive(barriers.key_empty(key.stage));
    key.advance();
    softmax(at.keys, scale);
    pack_weights();
#pragma unroll 1
    for (int i = 1; i < tiles; ++i) {
      at.advance(rows_of, problem.call.segment_count);
      if (at.starts_segment()) make_queries(at.segment);
      barrier_wait(barriers.key_full(key.stage), key.parity);
      start_logits(key.stage);
      barrier_wait(barriers.value_full(value.stage), value.parity);
      start_values(value.stage);
      multiply_wait<1>();  // the logits
      pin(logits);
      if (thread == 0) barrier_arrive(barriers.key_empty(key.stage));
      key.advance();
      softmax(at.keys, scale);
      multiply_wait<0>();
      pin(sum);
      if (thread == 0) barrier_arrive(barriers.value_empty(value.stage));
      value.advance();
      pack_weights();
      rescale();
    }
    barrier_wait(barriers.value_full(value.stage), value.parity);
    start_values(value.stage);
    multiply_wait<0>();
    pin(sum);
  }

  __device__ __forceinline__ void total_denominators() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      denominator[r] += __shfl_xor_sync(~0u, denominator[r], 1);
      denominator[r] += __shfl_xor_sync(~0u, denominator[r], 2);
    }
  }

  __device__ __forceinline__ void store_lse(int token, float top, float total, float scale) {
    if (!problem.call.lse) return;
    problem.call.lse[int64_t{token} * problem.call.heads + head] =
        total > 0.0f ? (top * scale + log2f(total)) / kLog2E : -INFINITY;
  }

  // Results, where the block had all keys.
  __device__ __forceinline__ void store(float scale) {
    total_denominators();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int token = first_row + hopper::result_row(thread, 2 * r);
      if (token >= problem.call.tokens) continue;
      const float inverse = denominator[r] > 0.0f ? 1.0f / denominator[r] : 0.0f;
      auto* out = static_cast<uint32_t*>(problem.call.out) +
                  (int64_t{token} * problem.call.heads + head) * (kDim / 2) + (thread & 3);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        out[n * 4] = pack_bf16(sum[4 * n + 2 * r] * inverse, sum[4 * n + 2 * r + 1] * inverse);
      }
      if ((thread & 3) == 0) store_lse(token, maximum[r], denominator[r], scale);
    }
  }

  // Puts sums, maxima and denominators where the cluster's blocks read them.
  __device__ __forceinline__ void publish() {
    total_denominators();
    group_sync(1 + group);  // the queries in the same memory have been read
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = hopper::result_row(thread, 2 * r);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        base(row)[n * 4 + (thread & 3)] = {sum[4 * n + 2 * r], sum[4 * n + 2 * r + 1]};
      }
      if ((thread & 3) == 0) {
        reinterpret_cast<float*>(memory + S::kMaximum)[group * 64 + row] = maximum[r];
        reinterpret_cast<float*>(memory + S::kDenominator)[group * 64 + row] = denominator[r];
      }
    }
  }

  // Merges this block's part of the warpgroup's rows over all blocks of the cluster; a warp does a row.
  __device__ __forceinline__ void merge(int rank, float scale) {
    const int lane = thread & 31, ranks = problem.ranks;
    const hopper::Share share = hopper::tile_share(64, ranks, rank);
    for (int row = share.first + thread / 32; row < share.last; row += 4) {
      const int token = first_row + row;
      if (token >= problem.call.tokens) break;
      const uint32_t index = group * 64 + row;
      float top = -INFINITY;
      for (int q = 0; q < ranks; ++q) top = fmaxf(top, load_remote(shared + S::kMaximum + index * 4, q));
      float total = 0.0f, merged[kDim / 32] = {};
      for (int q = 0; q < ranks; ++q) {
        const float part = load_remote(shared + S::kDenominator + index * 4, q);
        if (part == 0.0f) continue;  // a block without keys
        const float weight = exp2_fast((load_remote(shared + S::kMaximum + index * 4, q) - top) * scale);
        total += part * weight;
#pragma unroll
        for (int i = 0; i < kDim / 32; ++i) {
          const int channel = i / 2 * 64 + lane * 2 + i % 2;
          merged[i] += weight * load_remote(shared + S::kBase + (index * kDim + channel) * 4, q);
        }
      }
      const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
      auto* out = static_cast<uint32_t*>(problem.call.out) +
                  (int64_t{token} * problem.call.heads + head) * (kDim / 2) + lane;
#pragma unroll
      for (int i = 0; i < kDim / 64; ++i) out[i * 32] = pack_bf16(merged[2 * i] * inverse, merged[2 * i + 1] * inverse);
      if (lane == 0) store_lse(token, top, total, scale);
    }
  }
};

template <int kDim>
__global__ void __launch_bounds__(Shape<kDim>::kThreads, 1)
    segment_attention_kernel(const __grid_constant__ Problem problem) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using S = Shape<kDim>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const uint32_t shared = shared_address(memory);
  const Barriers<kDim> barriers{shared + S::kBarriers};
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  const int head = blockIdx.y, rank = static_cast<int>(cluster_rank());
  const int first_row = blockIdx.x / problem.ranks * S::kRows;
  const auto rows_of = [&](int segment) { return problem.call.segments[segment].rows; };

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < S::kStages; ++stage) {
      barrier_init(barriers.key_full(stage), 1);
      barrier_init(barriers.value_full(stage), 1);
      barrier_init(barriers.key_empty(stage), S::kGroups);
      barrier_init(barriers.value_empty(stage), S::kGroups);
    }
    barrier_init_done();
  }
  __syncthreads();

  int key_tiles = 0;
  for (int s = 0; s < problem.call.segment_count; ++s) key_tiles += (rows_of(s) + kKeys - 1) / kKeys;
  const hopper::Share share = hopper::tile_share(key_tiles, problem.ranks, rank);
  Cursor at = Cursor::begin(rows_of, problem.call.segment_count);
  for (int i = 0; i < share.first; ++i) at.advance(rows_of, problem.call.segment_count);
  const int tiles = share.last - share.first;

  if (group == 0) {
    give_registers<S::kProducerRegisters>();
    if (threadIdx.x == 0) produce<kDim>(problem, shared, barriers, at, tiles, head);
    __syncwarp();
    if (problem.ranks > 1) {
      cluster_arrive();
      cluster_wait();
      cluster_arrive();
      cluster_wait();
    }
  } else {
    take_registers<S::kConsumerRegisters>();
    const float scale = kLog2E * rsqrtf(static_cast<float>(kDim));
    Consumer<kDim> consumer{problem, memory, shared, group - 1, static_cast<int>(threadIdx.x % 128),
                            first_row + (group - 1) * 64, head};
    consumer.prepare();
    consumer.attend(barriers, at, tiles, scale);
    if (problem.ranks == 1) {
      consumer.store(scale);
    } else {
      consumer.publish();
      cluster_arrive();
      cluster_wait();
      consumer.merge(rank, scale);
      cluster_arrive();  // no block may leave while another one reads its memory
      cluster_wait();
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

template <int kDim>
int launch(const SegmentAttention& call, int processors, cudaStream_t stream) {
  using S = Shape<kDim>;
  Problem problem{};
  problem.call = call;
  int key_tiles = 0;
  for (int s = 0; s < call.segment_count; ++s) {
    const Segment& segment = call.segments[s];
    if (segment.rows == 0) continue;
    key_tiles += (segment.rows + kKeys - 1) / kKeys;
    if (!make_map(problem.keys[s], segment.key, segment.rows, call.heads, kDim) ||
        !make_map(problem.values[s], segment.value, segment.rows, call.heads, kDim)) {
      return cudaErrorNotSupported;
    }
  }
  const int query_tiles = (call.tokens + S::kRows - 1) / S::kRows;
  problem.ranks = hopper::choose_ranks(query_tiles * call.heads, key_tiles, processors);

  const cudaError_t error = cudaFuncSetAttribute(segment_attention_kernel<kDim>,
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize, S::kBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(problem.ranks), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(query_tiles * problem.ranks, call.heads);
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = S::kBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, segment_attention_kernel<kDim>, problem);
}

}  // namespace

int segment_attention_sm90(const SegmentAttention& call, int processors, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (call.head_dim == 64) return launch<64>(call, processors, on);
  if (call.head_dim == 128) return launch<128>(call, processors, on);
  return cudaErrorInvalidValue;
}

}  // namespace streamchar::cuda
