// segment_attention for Hopper (sm_90a): bulk tensor copies, wgmma, warp-specialised warpgroups, persistent blocks.
// See cuda_calls.h for its state.
//
// A tile is 64 query rows of one head per consumer warpgroup. The grid is one block per multiprocessor, and
// work_split.h divides the key blocks of all tiles of all streams evenly among them; parts of a tile that was split
// meet in the workspace (attention_rows.cuh). The producer warpgroup runs through the same parts on its own, so
// the next part's keys arrive while the consumers finish with the one before.
//
// bfloat16 keys and values: one producer thread fetches tiles of 128 through a ring of stages with bulk tensor
// copies, straight from where the cache has them; every segment has a tensor map of its own, so rows beyond its end
// arrive as zeros. Narrow ones: the producer warpgroup reads them, makes them float16 (exactly) and stores them where
// the copies would have put them; their ranges go into the queries and, between segments, into the sums.
//
// Consumers overlap: while the weighted values of tile i - 1 are summed, the softmax of tile i runs. Queries are
// normalised and rotated once per part, and kept in float32; where a segment begins, each warpgroup shifts its rows and
// rounds them once into the tile that wgmma reads.
//
// Who may touch what, when:
//   - A stage: filled after `empty` completed a phase (every consumer warp arrived, after wgmma.wait_group said that
//     its reads are done), read after `full` did (the copy's bytes are there, or all four producer warps arrived). Both
//     sides count stages and phases over all parts without a break.
//   - Ordinary stores that wgmma reads (queries, narrow tiles): each writing thread fences towards the async proxy
//     before the barrier that its reader waits on.
//   - A warpgroup's queries: rewritten between two barriers of the warpgroup, with none of its products open.
//   - Queries in float32: each thread reads back what it wrote itself.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>

#include "kernels/cuda/cluster_launch.cuh"
#include "kernels/cuda/hopper_consumer.cuh"
#include "kernels/cuda/hopper_producer.cuh"

namespace streamchar::cuda {
namespace {

using namespace hopper_attention;

constexpr int kDefaultWay = kPlain;
constexpr uint32_t kShortUnits = 6;   // key blocks of a block

template <int kDim, bool kNarrow, int kWay>
__global__ void __launch_bounds__(Shape<kDim, kNarrow, kWay>::kThreads, 1)
    segment_attention_kernel(const __grid_constant__ Problem problem) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using S = Shape<kDim, kNarrow, kWay>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const uint32_t shared = shared_address(memory);
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);

  if (threadIdx.x == 0) {
    const Barriers<S> barriers{shared + S::kBarriers};
    constexpr int kReaders = 4 * S::kGroups * kTileBlocks<kWay>;  // consumer warps
    constexpr int kWriters = kNarrow ? 4 : 1;                     // producer warps, or the thread that expects copies
    for (int stage = 0; stage < S::kKeyStages; ++stage) {
      barrier_init(barriers.key_full(stage), kWriters);
      barrier_init(barriers.key_empty(stage), kReaders);
    }
    for (int stage = 0; stage < S::kValueStages; ++stage) {
      barrier_init(barriers.value_full(stage), kWriters);
      barrier_init(barriers.value_empty(stage), kReaders);
    }
    for (int stage = 0; stage < S::kQueryStages; ++stage) {
      barrier_init(barriers.query_full(stage), kQueryWarps);
      barrier_init(barriers.query_empty(stage), 4 * S::kGroups);
    }
    barrier_init_done();
  }
  if constexpr (kWay & kPairs) {
    cluster_sync();
  } else {
    __syncthreads();
  }

  if (group == 0) {
    give_registers<Registers<kDim, kNarrow, kWay>::kProducer>();
    if constexpr (kNarrow) {
      if (problem.call.storage == KvStorage::kFloat8) {
        convert_all<kDim, true>(problem, memory, shared);
      } else {
        convert_all<kDim, false>(problem, memory, shared);
      }
    } else {
      if (threadIdx.x == 0) fetch_all<kDim, kWay>(problem, shared);
      if constexpr (S::kQueriesAhead) {
        if (threadIdx.x >= 32) prepare_queries<kDim, kWay>(problem, memory, shared);
      }
    }
  } else {
    take_registers<Registers<kDim, kNarrow, kWay>::kConsumer>();
    Consumer<kDim, kNarrow, kWay> consumer{problem, memory, shared, group - 1, static_cast<int>(threadIdx.x % 128),
                                           kLog2E * rsqrtf(static_cast<float>(kDim))};
    consumer.open_turns();
    const int block = work_block<kWay>();
    const uint32_t end = problem.split.start(block + 1);
#pragma unroll 1
    for (uint32_t unit = problem.split.start(block); unit < end;) {
      const WorkPart part = problem.split.part(block, unit);
      unit += part.end - part.begin;
      Walk walk(problem.call, part);
      consumer.begin(part);
      consumer.attend(walk);
      consumer.finish(part);
    }
  }
  if constexpr (kWay & kPairs) cluster_sync();  // the other block may still copy into this one, or arrive here
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

// Boxes of 64 channels and `box_rows` rows of one head.
bool make_map(CUtensorMap& map, const TokenView& view, int rows, int heads, int head_dim, cuuint32_t box_rows) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(head_dim), static_cast<cuuint64_t>(rows),
                              static_cast<cuuint64_t>(heads)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(view.token_stride) * 2,
                                static_cast<cuuint64_t>(view.head_stride) * 2};
  const cuuint32_t box[] = {kBlockColumns, box_rows, 1}, steps[] = {1, 1, 1};
  const EncodeTiled encode = encode_tiled();
  return encode && encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(view.data), sizes, strides, box,
                          steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                          CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// STREAMCHAR_SM90_EXACT: a way is taken whatever the work, as tests of it want.
bool takes_way_exactly() { return std::getenv("STREAMCHAR_SM90_EXACT") != nullptr; }

template <int kDim, bool kNarrow, int kWay>
int launch(const SegmentAttention& call, int processors, cudaStream_t stream) {
  using S = Shape<kDim, kNarrow, kWay>;
  Problem problem{};
  problem.call = call;
  constexpr int kBlocks = kTileBlocks<kWay>, kBoxRows = kKeys / kBlocks;
  StreamWork work[kMaxStreams];
  for (int i = 0; i < call.stream_count; ++i) {
    const AttentionStream& of = call.streams[i];
    work[i] = Walk::work(call, i, kBlocks * S::kRows);
    for (int s = of.first_segment; s < of.first_segment + of.segment_count && !kNarrow; ++s) {
      const Segment& segment = call.segments[s];
      if (segment.rows > 0 && (!make_map(problem.keys[s], segment.key, segment.rows, of.heads, kDim, kBoxRows) ||
                               !make_map(problem.values[s], segment.value, segment.rows, of.heads, kDim, kBoxRows))) {
        return cudaErrorNotSupported;
      }
    }
  }
  const int room = PartialLayout{kBlocks * S::kGroups * 4, kDim}.grid_within(call.workspace_bytes);
  if constexpr ((kWay & (kPairs | kAhead)) == (kPairs | kAhead)) {
    // A pair's tile has twice the rows: what is empty of the last ones must not cost more than sharing saves.
    int64_t paired = 0, single = 0;
    for (int i = 0; i < call.stream_count; ++i) {
      paired += work[i].units() * int64_t{kBlocks};
      single += Walk::work(call, i, S::kRows).units();
    }
    if (room == 0 || (paired > single + single / 50 && !takes_way_exactly())) {
      return launch<kDim, kNarrow, kWay & ~kPairs>(call, processors, stream);
    }
  }
  const int blocks = processors / kBlocks;
  problem.split = Split::make(work, call.stream_count, blocks < room ? blocks : room);
  if (problem.split.grid == 0) return problem.split.total() == 0 ? cudaSuccess : cudaErrorInvalidValue;
  if constexpr (kWay & kAhead) {
    // A block whose work is that short has no time to make queries ahead: all of its warps do it sooner.
    if (problem.split.total() < kShortUnits * static_cast<uint32_t>(problem.split.grid) && !takes_way_exactly()) {
      return launch<kDim, kNarrow, kLazy>(call, processors, stream);
    }
  }

  const auto kernel = segment_attention_kernel<kDim, kNarrow, kWay>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kBytes);
  if (error != cudaSuccess) return error;
  if constexpr (kWay & kPairs) return launch_pairs(kernel, problem.split.grid, S::kThreads, S::kBytes, stream, problem);
  kernel<<<problem.split.grid, S::kThreads, S::kBytes, stream>>>(problem);
  return cudaGetLastError();
}

// STREAMCHAR_SM90_WAY: bits of Way, for measurements; "N,M" for head sizes of 128 and 64.
template <int kDim>
int chosen_way() {
  const char* text = std::getenv("STREAMCHAR_SM90_WAY");
  if (!text) return kDefaultWay;
  const char* const second = std::strchr(text, ',');
  return std::atoi(kDim == 64 && second ? second + 1 : text);
}

template <int kDim>
int launch_way(const SegmentAttention& call, int processors, cudaStream_t stream) {
  switch (chosen_way<kDim>()) {
#define SC_WAY(way) \
  case way: return launch<kDim, false, way>(call, processors, stream)
    SC_WAY(kLazy);
    SC_WAY(kAhead | kLazy);
    SC_WAY(kAhead | kLazy | kTurns);
    SC_WAY(kAhead | kSwift);
    SC_WAY(kAhead | kSwift | kTurns);
    SC_WAY(kAhead | kSwift | kPairs);
    SC_WAY(kAhead | kSwift | kTurns | kPairs);
#undef SC_WAY
    default: return launch<kDim, false, kDefaultWay>(call, processors, stream);
  }
}

}  // namespace

int segment_attention_sm90(const SegmentAttention& call, int processors, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const bool narrow = is_narrow(call.storage);
  if (call.head_dim == 64) {
    return narrow ? launch<64, true, kPlain>(call, processors, on) : launch_way<64>(call, processors, on);
  }
  if (call.head_dim == 128) {
    return narrow ? launch<128, true, kPlain>(call, processors, on) : launch_way<128>(call, processors, on);
  }
  return cudaErrorInvalidValue;
}

int segment_attention_workspace_sm90(int head_dim, KvStorage storage, int processors, int64_t& bytes) {
  if (head_dim != 64 && head_dim != 128) return cudaErrorInvalidValue;
  bytes = PartialLayout{head_dim == 64 && !is_narrow(storage) ? 12 : 8, head_dim}.bytes(processors);
  return cudaSuccess;
}

}  // namespace streamchar::cuda
