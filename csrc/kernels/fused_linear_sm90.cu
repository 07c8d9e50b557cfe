// fused_linear for sm_90a: CUTLASS's warp-specialised kernels (TMA, wgmma, persistent blocks) with an epilogue of our
// own. Small shapes get tiles of 64 x 64; larger ones 128 x 128, where two consumer warpgroups take turns so that one
// multiplies while the other finishes a tile, or 128 x 256, which both compute together.
#include <cuda_runtime.h>

#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "kernels/cuda/cutlass_finish.cuh"
#include "kernels/fused_linear_plan.h"

namespace streamchar::cuda {
namespace {

namespace fusion = cutlass::epilogue::fusion;

using RowStride = cute::Stride<int64_t, cute::_1, int64_t>;              // (row, channel, product)
using VectorStride = cute::Stride<cute::_0, cute::_1, int64_t>;
using RowMajor = cutlass::layout::RowMajor;
using ColumnMajor = cutlass::layout::ColumnMajor;

template <int kTile, int kInputs, class MainSchedule, class EpilogueSchedule>
struct Tile {
  static constexpr LinearTile kSize = kLinearTilesSm90[kTile];
  using Shape = cute::Shape<cute::Int<kSize.rows>, cute::Int<kSize.columns>, cute::Int<kInputs>>;
  using Cluster = cute::Shape<cute::Int<kSize.cluster>, cute::_1, cute::_1>;
  using Main = MainSchedule;
  using Epilogue = EpilogueSchedule;
};
using SmallTile = Tile<0, 128, cutlass::gemm::KernelTmaWarpSpecializedPingpong,
                       cutlass::epilogue::TmaWarpSpecialized>;
using MediumTile = Tile<1, 64, cutlass::gemm::KernelTmaWarpSpecializedPingpong,
                        cutlass::epilogue::TmaWarpSpecialized>;
using LargeTile = Tile<2, 64, cutlass::gemm::KernelTmaWarpSpecializedCooperative,
                       cutlass::epilogue::TmaWarpSpecializedCooperative>;

template <template <class> class Function, class Output>
using Compute = fusion::Sm90Compute<Function, Output, float, cutlass::FloatRoundStyle::round_to_nearest>;

template <class Shape>
using Vector = fusion::Sm90RowBroadcast<0, Shape, Bf16, float, VectorStride>;

template <class Shape, class Output>
using Biased = fusion::Sm90EVT<Compute<cutlass::plus, Output>, fusion::Sm90AccFetch, Vector<Shape>>;

template <class Shape, LinearFinish kFinish>
struct FusionOf {
  using Tree = Biased<Shape, Bf16>;
  static typename Tree::Arguments arguments(const FusedLinear& call) {
    return {{}, {static_cast<const Bf16*>(call.bias), Bf16(0), {}}, {}};
  }
};

template <class Shape>
struct FusionOf<Shape, LinearFinish::kGeluTanh> {
  using Tree = fusion::Sm90EVT<Compute<GeluTanh, Bf16>, Biased<Shape, float>>;
  static typename Tree::Arguments arguments(const FusedLinear& call) {
    return {{{}, {static_cast<const Bf16*>(call.bias), Bf16(0), {}}, {}}, {}};
  }
};

template <class Shape>
struct FusionOf<Shape, LinearFinish::kGatedResidual> {
  using Tree = fusion::Sm90EVT<Compute<cutlass::homogeneous_multiply_add, Bf16>, Vector<Shape>, Biased<Shape, float>,
                               fusion::Sm90SrcFetch<Bf16>>;
  static typename Tree::Arguments arguments(const FusedLinear& call) {
    return {{static_cast<const Bf16*>(call.gate), Bf16(0), {{}, {}, call.gate_batch_stride}},
            {{}, {static_cast<const Bf16*>(call.bias), Bf16(0), {}}, {}},
            {},
            {}};
  }
};

template <class Tile, LinearFinish kFinish>
int launch(const FusedLinear& call, LinearProducts products, int processors, cudaStream_t stream) {
  using Fusion = FusionOf<typename Tile::Shape, kFinish>;
  using Residual = cute::conditional_t<kFinish == LinearFinish::kGatedResidual, Bf16, void>;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, typename Tile::Shape, typename Tile::Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, Residual, RowMajor, kLinearGroup, Bf16, RowMajor,
      kLinearGroup, typename Tile::Epilogue, typename Fusion::Tree>::CollectiveOp;
  using Stages =
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>;
  using Main = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Bf16, RowMajor, kLinearGroup, Bf16, ColumnMajor,
      kLinearGroup, float, typename Tile::Shape, typename Tile::Cluster, Stages, typename Tile::Main>::CollectiveOp;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<
      cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Main, Epilogue>>;

  const auto rows = [&](int64_t token_stride, int64_t batch_stride) {
    return RowStride{token_stride, {}, products.count > 1 ? batch_stride : 0};
  };
  typename Gemm::Arguments arguments{
      cutlass::gemm::GemmUniversalMode::kGemm,
      {products.rows, call.outputs, call.inputs, products.count},
      {static_cast<const Bf16*>(call.x.data), rows(call.x.token_stride, call.x.batch_stride),
       static_cast<const Bf16*>(call.weight), rows(call.inputs, 0)},
      {Fusion::arguments(call), static_cast<const Bf16*>(call.residual.data),
       rows(call.residual.token_stride, call.residual.batch_stride), static_cast<Bf16*>(call.y),
       rows(call.y_token_stride, call.y_batch_stride)}};
  arguments.hw_info.sm_count = processors;
  if (Gemm::can_implement(arguments) != cutlass::Status::kSuccess || Gemm::get_workspace_size(arguments) != 0) {
    return cudaErrorInvalidValue;
  }
  return launch_gemm<Gemm>(arguments, stream);
}

template <class Tile>
int launch(const FusedLinear& call, LinearProducts products, int processors, cudaStream_t stream) {
  switch (call.finish) {
    case LinearFinish::kNone: return launch<Tile, LinearFinish::kNone>(call, products, processors, stream);
    case LinearFinish::kGeluTanh: return launch<Tile, LinearFinish::kGeluTanh>(call, products, processors, stream);
    default: return launch<Tile, LinearFinish::kGatedResidual>(call, products, processors, stream);
  }
}

}  // namespace

int fused_linear_sm90(const FusedLinear& call, int processors, void* stream) {
  const LinearProducts products = linear_products(call);
  const auto on = static_cast<cudaStream_t>(stream);
  switch (linear_tile(kLinearTilesSm90, products, call.outputs, processors)) {
    case 0: return launch<SmallTile>(call, products, processors, on);
    case 1: return launch<MediumTile>(call, products, processors, on);
    default: return launch<LargeTile>(call, products, processors, on);
  }
}

}  // namespace streamchar::cuda
