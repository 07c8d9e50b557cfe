#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/thread_pool.h"
#include "kernels/thread_scratch.h"

namespace streamchar {
namespace {

// A kernel, and the rows that one work item gives it.
struct Choice {
  LinearKernel kernel;
  int rows;
};

Choice choose([[maybe_unused]] LinearStorage storage) {
#if defined(SC_X86)
  const CpuIsa isa = current_isa();
  if (storage != LinearStorage::kFloat32 && isa >= CpuIsa::kAmx) return {amx::linear_block, kAmxLinearRows};
  if (storage == LinearStorage::kInt8 && isa >= CpuIsa::kAvx512Vnni) return {avx512_vnni::linear_block, kLinearRows};
  if (storage == LinearStorage::kInt8 && isa == CpuIsa::kAvxVnni) return {avx_vnni::linear_block, kLinearRows};
  if (storage == LinearStorage::kBFloat16 && isa >= CpuIsa::kAvx512Bf16) {
    return {avx512_bf16::linear_block, kLinearRows};
  }
#endif
  return {cpu_kernels().linear_block, kLinearRows};
}

int divide_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

}  // namespace

void packed_linear_cpu(const PackedLinear& linear, const LinearCall& call) {
  const PackedWeights& weights = linear.weights();
  const auto [kernel, block_rows] = choose(weights.storage);
  ThreadPool& pool = ThreadPool::global();
  const int row_blocks = divide_up(call.rows, block_rows);

  // Outputs are divided only where rows do not give every thread a few items, and items stay worth a thread's while.
  constexpr int64_t kItemProducts = 1 << 19;
  const int64_t products = int64_t{weights.tiles} * kTileOutputs * weights.inputs * std::min(call.rows, block_rows);
  const int threads = pool.available();
  const int wanted = threads > 1 ? divide_up(3 * threads, std::max(1, row_blocks)) : 1;
  const int64_t chunks = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, products / kItemProducts));
  const int chunk_tiles = divide_up(weights.tiles, chunks * kLinearTiles) * kLinearTiles;
  const int tile_chunks = divide_up(weights.tiles, chunk_tiles);

  pool.run(row_blocks * tile_chunks, [&, kernel = kernel, block_rows = block_rows](int item) noexcept {
    const int first_row = item / tile_chunks * block_rows, first_tile = item % tile_chunks * chunk_tiles;
    kernel(weights, call,
           {.first_row = first_row,
            .rows = std::min(block_rows, call.rows - first_row),
            .first_tile = first_tile,
            .tiles = std::min(chunk_tiles, weights.tiles - first_tile)},
           thread_scratch(Scratch::kItem, linear_scratch_bytes(weights)));
  });
}

void packed_linear_serial(const PackedLinear& linear, const LinearCall& call) {
  const PackedWeights& weights = linear.weights();
  const auto [kernel, block_rows] = choose(weights.storage);
  void* scratch = thread_scratch(Scratch::kItem, linear_scratch_bytes(weights));
  for (int row = 0; row < call.rows; row += block_rows) {
    kernel(weights, call,
           {.first_row = row, .rows = std::min(block_rows, call.rows - row), .first_tile = 0, .tiles = weights.tiles},
           scratch);
  }
}

int packed_linear_item_rows() { return choose(LinearStorage::kInt8).rows; }

}  // namespace streamchar
