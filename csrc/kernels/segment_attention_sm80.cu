// segment_attention for any GPU from sm_80 on: mma.sync, ldmatrix, cp.async, persistent blocks. See cuda_calls.h for
// its state.
//
// A tile is 128 query rows of one head, 16 rows for each of a block's 8 warps; work_split.h divides the key blocks of
// all tiles of all streams evenly among as many blocks as the GPU holds. Key and value tiles of 64 come through two
// stages of shared memory; narrow ones become float16 on the way, through registers. Where a segment begins, each warp
// makes its rows' queries anew: normalised, rotated and shifted in float32, rounded once. That costs 16 rows of
// arithmetic per segment and no memory.
//
// A stage is written after a barrier that follows its last reads, and read after one that follows its writes; queries
// are a warp's own.
#include <cuda_runtime.h>

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/key_walk.cuh"
#include "kernels/cuda/narrow.cuh"
#include "kernels/cuda/token_row.cuh"

namespace streamchar::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kRows = kWarps * 16;  // queries per tile
constexpr int kKeys = 64;           // keys per tile

using Walk = KeyWalk<kKeys>;
using Cursor = TileCursor<kKeys>;

template <int kDim>
struct SharedLayout {
  static constexpr uint32_t kTileBytes = kKeys * kDim * 2;
  static constexpr uint32_t kKeyTiles = kRows * kDim * 2;             // after the queries
  static constexpr uint32_t kValueTiles = kKeyTiles + 2 * kTileBytes;
  static constexpr uint32_t kBytes = kValueTiles + 2 * kTileBytes;
};

struct Problem {
  SegmentAttention call;
  Split split;
};

// Starts copying a bfloat16 tile; rows from `at.keys` on become zero.
template <int kDim>
__device__ __forceinline__ void copy_tile(unsigned char* target, const TokenView& view, int head, const Cursor& at) {
  constexpr int kPieces = kDim / 8;
  const auto* source = static_cast<const uint16_t*>(view.data) + head * view.head_stride;
#pragma unroll
  for (int i = 0; i < kKeys * kPieces / kThreads; ++i) {
    const int index = threadIdx.x + i * kThreads, row = index / kPieces, piece = index % kPieces;
    const bool valid = row < at.keys;
    copy_16(shared_address(target) + swizzled_offset<kDim>(row, piece),
            source + (at.first + (valid ? row : 0)) * view.token_stride + piece * 8, valid);
  }
}

// Makes a float16 tile of a narrow one.
template <int kDim, bool kFloat8>
__device__ __forceinline__ void convert_tile(unsigned char* target, const TokenView& view, int head, const Cursor& at) {
  constexpr int kPieces = kDim / 16, kLoads = kKeys * kPieces / kThreads;
  const auto* source = static_cast<const unsigned char*>(view.data) + head * view.head_stride;
  uint4 piece[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int index = threadIdx.x + i * kThreads, row = index / kPieces;
    piece[i] = make_uint4(0, 0, 0, 0);
    if (row < at.keys) {
      piece[i] = __ldg(reinterpret_cast<const uint4*>(source + (at.first + row) * view.token_stride +
                                                      index % kPieces * 16));
    }
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int index = threadIdx.x + i * kThreads, row = index / kPieces, first = index % kPieces * 2;
    *reinterpret_cast<uint4*>(target + swizzled_offset<kDim>(row, first)) =
        narrow_to_f16<kFloat8>(piece[i].x, piece[i].y);
    *reinterpret_cast<uint4*>(target + swizzled_offset<kDim>(row, first + 1)) =
        narrow_to_f16<kFloat8>(piece[i].z, piece[i].w);
  }
}

template <int kDim, bool kNarrow>
__device__ __forceinline__ void fetch_tile(unsigned char* target, const TokenView& view, int head, const Cursor& at,
                                           KvStorage storage) {
  if constexpr (!kNarrow) {
    copy_tile<kDim>(target, view, head, at);
  } else if (storage == KvStorage::kFloat8) {
    convert_tile<kDim, true>(target, view, head, at);
  } else {
    convert_tile<kDim, false>(target, view, head, at);
  }
}

// The warp's 16 queries for one segment, as operands of multiply_add; `unit`: of the segment's keys.
template <int kDim, bool kNarrow>
__device__ __forceinline__ void make_queries(const AttentionStream& stream, const Segment& segment, float unit,
                                             int head, int first_row, unsigned char* shared, int warp, int lane,
                                             uint32_t (&query)[kDim / 16][4]) {
  const bool moved = segment.moved && stream.moved.data;
#pragma unroll 2
  for (int r = 0; r < 16; ++r) {
    const int row = warp * 16 + r, token = min(first_row + row, stream.tokens - 1);
    Pair x[kDim / 64];
    if (moved) {
      const uint32_t* ready = head_row(stream.moved, token, head);
#pragma unroll
      for (int i = 0; i < kDim / 64; ++i) x[i] = unpack_bf16(ready[lane + 32 * i]);
    } else {
      base_row<kDim>(stream, token, head, lane, x);
      if (segment.shift) turn_row(x, segment.shift, lane);
    }
#pragma unroll
    for (int i = 0; i < kDim / 64; ++i) {
      const int pair = lane + 32 * i;  // 4 pairs to a 16-byte piece
      *reinterpret_cast<uint32_t*>(shared + swizzled_offset<kDim>(row, pair / 4) + pair % 4 * 4) =
          pack<kNarrow>(x[i].x * unit, x[i].y * unit);
    }
  }
  __syncwarp();
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    load_matrices(query[k],
                  shared_address(shared) + swizzled_offset<kDim>(warp * 16 + (lane & 15), k * 2 + (lane >> 4)));
  }
  __syncwarp();
}

// A part's keys, into `rows`. The whole block.
template <int kDim, bool kNarrow>
__device__ __forceinline__ void attend(const SegmentAttention& call, const WorkPart& part, Walk walk,
                                       unsigned char* shared, int warp, int lane, float scale,
                                       AttentionRows<kDim>& rows) {
  using Layout = SharedLayout<kDim>;
  const AttentionStream& stream = call.streams[part.stream];
  const uint32_t base = shared_address(shared);
  const int first_row = part.query_block * kRows, head = part.head;
  const auto fetch_keys = [&](int stage, bool wanted) {
    if (wanted) {
      fetch_tile<kDim, kNarrow>(shared + Layout::kKeyTiles + stage * Layout::kTileBytes, walk.segment().key, head,
                                walk.at, call.storage);
    }
    close_copies();
  };
  const auto fetch_values = [&](int stage, bool wanted) {
    if (wanted) {
      fetch_tile<kDim, kNarrow>(shared + Layout::kValueTiles + stage * Layout::kTileBytes, walk.segment().value, head,
                                walk.at, call.storage);
    }
    close_copies();
  };

  float unit = 1.0f;  // what the sums are multiples of: the range of narrow values, per step
  rows.clear();
  __syncthreads();    // the part before has been read
  if (walk.tiles) {
    fetch_keys(0, true);
    fetch_values(0, true);
  }
  uint32_t query[kDim / 16][4];

#pragma unroll 1
  for (int tile = 0, stage = 0; tile < walk.tiles; ++tile, stage ^= 1) {
    const int keys_now = walk.at.keys;
    float ratio = 1.0f;
    if (tile == 0 || walk.at.starts_segment()) {
      const Segment& segment = walk.segment();
      float key_unit = 1.0f;
      if constexpr (kNarrow) {
        const float value_unit = from_storage_factor(call.storage, segment.value_range[head]);
        key_unit = from_storage_factor(call.storage, segment.key_range[head]);
        if (tile) ratio = unit / value_unit;
        unit = value_unit;
      }
      make_queries<kDim, kNarrow>(stream, segment, key_unit, head, first_row, shared, warp, lane, query);
    }
    const bool more = tile + 1 < walk.tiles;
    walk.advance();    // from here on the next tile is `walk`'s
    wait_copies<1>();  // the keys of this tile; its values may be under way
    __syncthreads();
    fetch_keys(stage ^ 1, more);

    float logits[kKeys / 2] = {};  // as AttentionRows has sums, with keys for channels
    const uint32_t keys = base + Layout::kKeyTiles + stage * Layout::kTileBytes;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        load_matrices(b, keys + swizzled_offset<kDim>(n * 16 + (lane & 7) + (lane >> 4) * 8, k * 2 + (lane >> 3 & 1)));
        multiply_add<kNarrow>(logits + 8 * n, query[k], b[0], b[1]);
        multiply_add<kNarrow>(logits + 8 * n + 4, query[k], b[2], b[3]);
      }
    }
    if (keys_now < kKeys) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        if (i / 4 * 8 + (lane & 3) * 2 + i % 2 >= keys_now) logits[i] = -INFINITY;
      }
    }

    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = rows.state.maximum[r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(logits[4 * n + 2 * r], logits[4 * n + 2 * r + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      const float offset = top * scale;
      factor[r] = exp2_fast((rows.state.maximum[r] - top) * scale);
      rows.state.maximum[r] = top;
      rows.state.denominator[r] *= factor[r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 4 * n + 2 * r; e < 4 * n + 2 * r + 2; ++e) {
          logits[e] = exp2_fast(logits[e] * scale - offset);
          rows.state.denominator[r] += logits[e];
        }
      }
      factor[r] *= ratio;
    }
    rows.multiply(factor);
    uint32_t weights[kKeys / 16][4];
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[n][i] = pack<kNarrow>(logits[8 * n + 2 * i], logits[8 * n + 2 * i + 1]);
    }

    wait_copies<1>();  // the values of this tile; the next keys may be under way
    __syncthreads();
    fetch_values(stage ^ 1, more);
    const uint32_t values = base + Layout::kValueTiles + stage * Layout::kTileBytes;
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t b[4];
        load_matrices_transposed(b, values + swizzled_offset<kDim>(n * 16 + (lane & 15), d * 2 + (lane >> 4)));
        multiply_add<kNarrow>(rows.sum + 8 * d, weights[n], b[0], b[1]);
        multiply_add<kNarrow>(rows.sum + 8 * d + 4, weights[n], b[2], b[3]);
      }
    }
  }
  rows.finish(unit);
}

template <int kDim, bool kNarrow>
__global__ void __launch_bounds__(kThreads) segment_attention_kernel(const __grid_constant__ Problem problem) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const float scale = kLog2E * rsqrtf(static_cast<float>(kDim));
  const uint32_t steps = problem.split.steps(blockIdx.x);
  AttentionRows<kDim> rows;
#pragma unroll 1
  for (uint32_t step = 0; step < steps;) {
    const WorkPart part = problem.split.part(blockIdx.x, step);
    step = problem.split.after(step, part);
    attend<kDim, kNarrow>(problem.call, part, Walk(problem.call, part), shared, warp, lane, scale, rows);
    if (part.split()) {
      constexpr PartialLayout kLayout{kWarps, kDim};
      if (!rows.template merge<kDim / 8>(problem.call.workspace, kLayout, part, warp, lane, scale)) continue;
    }
    rows.store(problem.call.streams[part.stream], part.head, part.query_block * kRows + warp * 16, lane, scale);
  }
}

// Blocks that the device holds at once.
template <int kDim, bool kNarrow>
int most_blocks(int processors, int& blocks) {
  constexpr int kBytes = SharedLayout<kDim>::kBytes;
  const auto kernel = segment_attention_kernel<kDim, kNarrow>;
  int per_processor = 0;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (!error) error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, kThreads, kBytes);
  blocks = per_processor * processors;
  return error;
}

template <int kDim, bool kNarrow>
int launch(const SegmentAttention& call, int processors, cudaStream_t stream) {
  Problem problem{};
  problem.call = call;
  StreamWork work[kMaxStreams];
  for (int i = 0; i < call.stream_count; ++i) work[i] = Walk::work(call, i, kRows);
  int blocks = 0;
  if (const int error = most_blocks<kDim, kNarrow>(processors, blocks)) return error;
  const int room = PartialLayout{kWarps, kDim}.grid_within(call.workspace_bytes);
  problem.split = Split::make(work, call.stream_count, blocks < room ? blocks : room);
  if (problem.split.grid == 0) return problem.split.total() == 0 ? cudaSuccess : cudaErrorInvalidValue;
  segment_attention_kernel<kDim, kNarrow>
      <<<problem.split.grid, kThreads, SharedLayout<kDim>::kBytes, stream>>>(problem);
  return cudaGetLastError();
}

}  // namespace

int segment_attention_sm80(const SegmentAttention& call, int processors, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const bool narrow = is_narrow(call.storage);
  if (call.head_dim == 64) {
    return narrow ? launch<64, true>(call, processors, on) : launch<64, false>(call, processors, on);
  }
  if (call.head_dim == 128) {
    return narrow ? launch<128, true>(call, processors, on) : launch<128, false>(call, processors, on);
  }
  return cudaErrorInvalidValue;
}

int segment_attention_workspace_sm80(int head_dim, KvStorage storage, int processors, int64_t& bytes) {
  const bool narrow = is_narrow(storage);
  int blocks = 0, error = cudaErrorInvalidValue;
  if (head_dim == 64) {
    error = narrow ? most_blocks<64, true>(processors, blocks) : most_blocks<64, false>(processors, blocks);
  }
  if (head_dim == 128) {
    error = narrow ? most_blocks<128, true>(processors, blocks) : most_blocks<128, false>(processors, blocks);
  }
  bytes = PartialLayout{kWarps, head_dim}.bytes(blocks);
  return error;
}

}  // namespace streamchar::cuda
