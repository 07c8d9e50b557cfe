// segment_attention for Hopper (sm_90a): bulk tensor copies, wgmma, warp-specialised warpgroups, persistent blocks.
// See cuda_calls.h for its state.
//
// A tile is 64 query rows of one head per consumer warpgroup. The grid is one block per multiprocessor, and
// work_split.h divides the key blocks of all tiles of all streams evenly among them; parts of a tile that was split
// meet in the workspace (attention_rows.cuh). What a part meets of one segment in a row is a visit (hopper_attention.cuh).
// The producer warpgroup plans and runs ahead of the consumers, over visits and parts without a break:
//
//   - Keys and values, bfloat16: one thread fetches tiles of 128 through a ring of stages with bulk tensor copies, straight
//     from where the cache has them; every segment has a tensor map of its own, so rows beyond its end arrive as zeros.
//     Narrow: the warpgroup reads them, makes them float16 (exactly) and stores them where the copies would have put them;
//     their ranges go into the queries and, between segments, into the sums.
//   - Queries, normalised, rotated and turned for the visit's segment: the other warps (narrow: all four) make the next
//     visit's while the consumers have this one's.
//   - Notes: what a tile is, beside its keys. So consumers neither divide nor walk, and hold nothing but products.
//
// Consumers overlap: while the weighted values of tile i - 1 are summed, the softmax of tile i runs, across visits and
// parts, and while one warpgroup is at its softmax the other one multiplies.
//
// Who may touch what, when:
//   - A stage: filled after `empty` completed a phase (every consumer warp arrived, after wgmma.wait_group said that its
//     reads are done, and a warp that multiplies a tile again has), read after `full` did (the copy's bytes are there, or
//     all four producer warps arrived). A tile's note is written before `full`, and read before `empty`.
//   - A tile of queries: the same, with the makers' warps. The first of a thread block the consumers make, each warpgroup
//     its own rows before a barrier of it, and makers go on from its base after `first_made`.
//   - A visit's note: the same, by one thread, for the makers. A part's note is in use for as long as visits or tiles name
//     it: there are more than can.
//   - The base of a part's queries: each maker's thread reads what it wrote itself, or the consumers before `first_made`.
//   - Ordinary stores that wgmma reads (queries, narrow tiles): each writing thread fences towards the async proxy before
//     the barrier that its reader waits on.
#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/cuda/hopper_consumer.cuh"
#include "kernels/cuda/hopper_producer.cuh"

namespace streamchar::cuda {
namespace {

using namespace hopper_attention;

template <int kDim, bool kNarrow>
__global__ void __launch_bounds__(Shape<kDim, kNarrow>::kThreads, 1)
    segment_attention_kernel(const __grid_constant__ Problem problem) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using S = Shape<kDim, kNarrow>;
  extern __shared__ __align__(1024) unsigned char memory[];
  const uint32_t shared = shared_address(memory);
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);

  if (threadIdx.x == 0) {
    const Barriers<S> barriers{shared + S::kBarriers};
    constexpr int kReaders = 4 * S::kGroups;   // consumer warps
    constexpr int kWriters = kNarrow ? 4 : 1;  // producer warps, or the thread that expects copies
    for (int stage = 0; stage < S::kStages; ++stage) {
      barrier_init(barriers.key_full(stage), kWriters);
      barrier_init(barriers.key_empty(stage), kReaders);
      barrier_init(barriers.value_full(stage), kWriters);
      barrier_init(barriers.value_empty(stage), kReaders);
    }
    for (int tile = 0; tile < S::kQueryTiles; ++tile) {
      barrier_init(barriers.query_full(tile), S::kMakers);
      barrier_init(barriers.query_empty(tile), kReaders);
    }
    for (int note = 0; note < kNotedVisits; ++note) {
      barrier_init(barriers.visit_full(note), 1);
      barrier_init(barriers.visit_empty(note), 32 * S::kMakers);
    }
    barrier_init(barriers.first_made(), 128 * S::kGroups);
    barrier_init_done();
  }
  __syncthreads();

  if (group == 0) {
    give_registers<Registers<kDim, kNarrow>::kProducer>();
    if constexpr (kNarrow) {
      if (problem.call.storage == KvStorage::kFloat8) {
        convert_all<kDim, true>(problem, memory, shared);
      } else {
        convert_all<kDim, false>(problem, memory, shared);
      }
    } else if (threadIdx.x >= 32) {
      make_all_queries<kDim>(problem, memory, shared, threadIdx.x / 32 - 1);
    } else if (threadIdx.x == 0) {
      fetch_all<kDim>(problem, memory, shared);
    }
  } else {
    take_registers<Registers<kDim, kNarrow>::kConsumer>();
    Consumer<kDim, kNarrow> consumer{problem, memory, shared, group - 1, static_cast<int>(threadIdx.x % 128),
                                     kLog2E * rsqrtf(static_cast<float>(kDim))};
    consumer.attend();
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

// Boxes of 64 channels and a tile's rows of one head.
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
    work[i] = KeyWalk<kKeys>::work(call, i, S::kRows);
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
  if (call.head_dim == 64) {
    return narrow ? launch<64, true>(call, processors, on) : launch<64, false>(call, processors, on);
  }
  if (call.head_dim == 128) {
    return narrow ? launch<128, true>(call, processors, on) : launch<128, false>(call, processors, on);
  }
  return cudaErrorInvalidValue;
}

int segment_attention_workspace_sm90(int head_dim, KvStorage storage, int processors, int64_t& bytes) {
  if (head_dim != 64 && head_dim != 128) return cudaErrorInvalidValue;
  bytes = PartialLayout{8, head_dim}.bytes(processors);
  return cudaSuccess;
}

}  // namespace streamchar::cuda
