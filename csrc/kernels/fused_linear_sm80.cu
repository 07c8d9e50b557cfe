// fused_linear for any GPU from sm_80 on: CUTLASS's kernels of mma.sync, ldmatrix and cp.async, with an epilogue of our
// own, whose tiles fit the shared memory of every such GPU.
#include <cuda_runtime.h>

#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/default_gemm_universal_with_visitor.h>
#include <cutlass/gemm/threadblock/threadblock_swizzle.h>

#include <cutlass/epilogue/threadblock/fusion/visitors.hpp>  // takes what it needs from those above

#include "kernels/cuda/cutlass_finish.cuh"
#include "kernels/fused_linear_plan.h"

namespace streamchar::cuda {
namespace {

namespace tree = cutlass::epilogue::threadblock;

using RowStride = cute::Stride<int64_t, cute::_1, int64_t>;              // (row, channel, product)
using VectorStride = cute::Stride<cute::_0, cute::_1, int64_t>;

template <int kTile, int kInputs, int kWarp, int kWarpInputs, int kMainStages>
struct Tile {
  static constexpr LinearTile kSize = kLinearTilesSm80[kTile];
  static constexpr int kStages = kMainStages;
  using Shape = cutlass::gemm::GemmShape<kSize.rows, kSize.columns, kInputs>;
  using Warp = cutlass::gemm::GemmShape<kWarp, kWarp, kWarpInputs>;
  using Threads = tree::OutputTileThreadLayout<Shape, Warp, Bf16, kLinearGroup, 1>;
};
using SmallTile = Tile<0, 64, 32, 64, 5>;
using LargeTile = Tile<1, 32, 64, 32, 4>;

template <template <class> class Function, class Output>
using Compute = tree::VisitorCompute<Function, Output, float, cutlass::FloatRoundStyle::round_to_nearest>;

template <class Threads>
using Vector = tree::VisitorRowBroadcast<Threads, Bf16, VectorStride>;

template <class Threads>
using Store = tree::VisitorAuxStore<Threads, Bf16, cutlass::FloatRoundStyle::round_to_nearest, RowStride>;

template <class Threads>
using Biased = tree::Sm80EVT<Compute<cutlass::plus, float>, tree::VisitorAccFetch, Vector<Threads>>;

template <class Threads>
typename Biased<Threads>::Arguments biased(const FusedLinear& call) {
  return {{}, {static_cast<Bf16*>(const_cast<void*>(call.bias)), Bf16(0), {}}, {}};
}

template <class Threads, LinearFinish kFinish>
struct FusionOf {
  using Tree = tree::Sm80EVT<Store<Threads>, Biased<Threads>>;
  static typename Tree::Arguments arguments(const FusedLinear& call, RowStride y, RowStride) {
    return {biased<Threads>(call), {static_cast<Bf16*>(call.y), y}};
  }
};

template <class Threads>
struct FusionOf<Threads, LinearFinish::kGeluTanh> {
  using Active = tree::Sm80EVT<Compute<GeluTanh, float>, Biased<Threads>>;
  using Tree = tree::Sm80EVT<Store<Threads>, Active>;
  static typename Tree::Arguments arguments(const FusedLinear& call, RowStride y, RowStride) {
    return {{biased<Threads>(call), {}}, {static_cast<Bf16*>(call.y), y}};
  }
};

template <class Threads>
struct FusionOf<Threads, LinearFinish::kGatedResidual> {
  using Residual = tree::VisitorAuxLoad<Threads, Bf16, RowStride>;
  using Gated = tree::Sm80EVT<Compute<cutlass::homogeneous_multiply_add, float>, Vector<Threads>, Biased<Threads>,
                              Residual>;
  using Tree = tree::Sm80EVT<Store<Threads>, Gated>;
  static typename Tree::Arguments arguments(const FusedLinear& call, RowStride y, RowStride residual) {
    return {{{static_cast<Bf16*>(const_cast<void*>(call.gate)), Bf16(0), {{}, {}, call.gate_batch_stride}},
             biased<Threads>(call),
             {static_cast<Bf16*>(const_cast<void*>(call.residual.data)), Bf16(0), residual},
             {}},
            {static_cast<Bf16*>(call.y), y}};
  }
};

template <class Tile, LinearFinish kFinish>
int launch(const FusedLinear& call, LinearProducts products, cudaStream_t stream) {
  using Fusion = FusionOf<typename Tile::Threads, kFinish>;
  using Kernel = typename cutlass::gemm::kernel::DefaultGemmWithVisitor<
      Bf16, cutlass::layout::RowMajor, cutlass::ComplexTransform::kNone, kLinearGroup, Bf16,
      cutlass::layout::ColumnMajor, cutlass::ComplexTransform::kNone, kLinearGroup, Bf16, cutlass::layout::RowMajor,
      kLinearGroup, float, float, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80, typename Tile::Shape,
      typename Tile::Warp, cutlass::gemm::GemmShape<16, 8, 16>, typename Fusion::Tree,
      cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<8>, Tile::kStages, cutlass::arch::OpMultiplyAdd,
      1>::GemmKernel;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

  const auto rows = [&](int64_t token_stride, int64_t batch_stride) {
    return RowStride{token_stride, {}, products.count > 1 ? batch_stride : 0};
  };
  const int64_t x_batch_stride = products.count > 1 ? call.x.batch_stride : 0;
  const typename Gemm::Arguments arguments(
      products.count > 1 ? cutlass::gemm::GemmUniversalMode::kBatched : cutlass::gemm::GemmUniversalMode::kGemm,
      {products.rows, call.outputs, call.inputs}, products.count,
      Fusion::arguments(call, rows(call.y_token_stride, call.y_batch_stride),
                        rows(call.residual.token_stride, call.residual.batch_stride)),
      call.x.data, call.weight, nullptr, nullptr, x_batch_stride, 0, 0, 0, call.x.token_stride, call.inputs, 0, 0);
  return launch_gemm<Gemm>(arguments, stream);
}

template <class Tile>
int launch(const FusedLinear& call, LinearProducts products, cudaStream_t stream) {
  switch (call.finish) {
    case LinearFinish::kNone: return launch<Tile, LinearFinish::kNone>(call, products, stream);
    case LinearFinish::kGeluTanh: return launch<Tile, LinearFinish::kGeluTanh>(call, products, stream);
    default: return launch<Tile, LinearFinish::kGatedResidual>(call, products, stream);
  }
}

}  // namespace

int fused_linear_sm80(const FusedLinear& call, int processors, void* stream) {
  const LinearProducts products = linear_products(call);
  const auto on = static_cast<cudaStream_t>(stream);
  if (linear_tile(kLinearTilesSm80, products, call.outputs, processors) == 0) {
    return launch<SmallTile>(call, products, on);
  }
  return launch<LargeTile>(call, products, on);
}

}  // namespace streamchar::cuda
