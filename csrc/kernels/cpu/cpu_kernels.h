// What each instruction set's objects offer to the dispatching code: one work item per call, no threads.
#pragma once

#include "kernels/adaln_modulate.h"
#include "kernels/cpu_isa.h"
#include "kernels/gated_residual.h"
#include "kernels/istft_overlap_add.h"
#include "kernels/kv_append.h"
#include "kernels/packed_conv.h"
#include "kernels/packed_linear.h"
#include "kernels/picture_blend.h"
#include "kernels/picture_warp.h"
#include "kernels/segment_attention.h"
#include "kernels/sequence_attention.h"

namespace streamchar {

// Query rows of one head that one work item handles. Fixed, so that results never depend on threads.
inline constexpr int kBlockRows = 48;
inline constexpr int kAmxBlockRows = 64;

// Rows and tiles of outputs that one work item of packed_linear handles.
struct LinearBlock {
  int first_row;
  int rows;        // at most kLinearRows
  int first_tile;  // a multiple of kLinearTiles
  int tiles;       // a multiple of kLinearTiles, or what is left (even)
};
inline constexpr int kLinearRows = 48;
inline constexpr int kLinearTiles = 4;
inline constexpr int kAmxLinearRows = 32;

using LinearKernel = void (*)(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                              void* scratch) noexcept;

// Scratch of any LinearKernel, in floats: its own, then the modulated rows.
inline constexpr int kLinearOwnRows = 64 + kLinearRows;
inline int64_t linear_scratch_bytes(const PackedWeights& weights) {
  return int64_t{kLinearOwnRows + kLinearRows} * weights.padded_inputs * 4;
}

// Rows of a picture that one work item of packed_conv handles.
struct ConvBlock {
  int picture;
  int first_row;
  int rows;  // at most kConvRows
};
inline constexpr int kConvRows = 16;

using ConvKernel = void (*)(const PackedFilters& filters, const ConvCall& call, const ConvBlock& block,
                            void* scratch) noexcept;

// Scratch of any ConvKernel: the narrow rows that the block sees, with a rim, and one row as it is before; then widened
// weights. Elements are of four bytes at most, and vectors may be written beyond an end.
inline constexpr int kConvSlack = 64;
inline int64_t conv_narrow_row_elements(const PackedFilters& filters, int width) {
  return (int64_t{width + 2} * filters.padded_inputs + 2 * kConvSlack - 1) / kConvSlack * kConvSlack;
}
inline int64_t conv_wide_floats(const PackedFilters& filters) { return 3 * filters.tile_bytes(); }
inline int64_t conv_scratch_bytes(const PackedFilters& filters, int width) {
  return 4 * ((kConvRows + 2) * conv_narrow_row_elements(filters, width) + conv_wide_floats(filters) +
              int64_t{width} * filters.shape.inputs + kConvSlack);
}

struct CpuKernels {
  int lanes;  // floats in a vector
  // Attention of query rows [first_row, first_row + kBlockRows) of a head.
  void (*attention_block)(const SegmentAttention& call, int head, int first_row) noexcept;
  // Tokens [64 * panel, 64 * panel + 64) of a head into their panel.
  void (*append_panel)(const KvAppend& call, int head, int panel) noexcept;
  void (*adaln_row)(const AdalnModulate& call, int batch, int token) noexcept;
  void (*gated_row)(const GatedResidual& call, int batch, int token) noexcept;
  // See cpu/istft_isa.h.
  void (*istft_transform)(const IstftOverlapAdd& call, const float* turns, int batch, int first, float* scratch,
                          float* pieces) noexcept;
  void (*istft_add)(const IstftOverlapAdd& call, const float* pieces, int batch, int block) noexcept;
  LinearKernel linear_block;
  ConvKernel conv_block;
  // Row `row` of places of a frame, see cpu/picture_warp_isa.h.
  void (*flow_row)(const PictureWarp& call, int frame, int row) noexcept;
  void (*warp_row)(const PictureWarp& call, int frame, int row) noexcept;
  void (*blend_row)(const PictureBlend& call, int frame, int row) noexcept;
  // See cpu/sequence_attention_isa.h. panels: of one head.
  void (*sequence_attention)(const SequenceAttention& call, int kv_head, float* panels) noexcept;
  // See cpu/modulate_row.h and cpu/plain_rows_isa.h.
  void (*layer_norm_row)(const float* x, const float* shift, const float* scale, int width, float eps,
                         float* out) noexcept;
  void (*rms_norm_row)(const float* x, const float* weight, int width, float eps, float* out) noexcept;
  void (*silu_row)(const float* x, int width, float* out) noexcept;
  void (*swiglu_row)(const float* gate, const float* up, int width, float* out) noexcept;
  float (*dot)(const float* a, const float* b, int width) noexcept;
};

namespace generic { extern const CpuKernels kKernels; }
#if defined(SC_X86)
namespace avx2 { extern const CpuKernels kKernels; }
namespace avx512 { extern const CpuKernels kKernels; }
namespace amx {
// Like CpuKernels::attention_block, for bf16 panels and kAmxBlockRows rows. Only at CpuIsa::kAmx.
void attention_block(const SegmentAttention& call, int head, int first_row) noexcept;
// Of both storages, at most kAmxLinearRows rows.
void linear_block(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                  void* scratch) noexcept;
}
namespace avx_vnni {  // int8 storage, at CpuIsa::kAvxVnni
// Like CpuKernels::attention_block, for int8 panels.
void attention_block(const SegmentAttention& call, int head, int first_row) noexcept;
void linear_block(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                  void* scratch) noexcept;
void conv_block(const PackedFilters& filters, const ConvCall& call, const ConvBlock& block, void* scratch) noexcept;
}
namespace avx512_vnni {  // int8 storage, from CpuIsa::kAvx512Vnni on
// Like CpuKernels::attention_block, for int8 panels.
void attention_block(const SegmentAttention& call, int head, int first_row) noexcept;
void linear_block(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                  void* scratch) noexcept;
void conv_block(const PackedFilters& filters, const ConvCall& call, const ConvBlock& block, void* scratch) noexcept;
}
namespace avx512_bf16 {  // bf16 storage, from CpuIsa::kAvx512Bf16 on
void linear_block(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                  void* scratch) noexcept;
}
#endif

// Those of current_isa().
const CpuKernels& cpu_kernels();

}  // namespace streamchar
