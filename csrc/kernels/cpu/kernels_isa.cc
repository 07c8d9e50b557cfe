// Compiled once per instruction set, with its flags and -DSC_ISA=<name>.
#include "kernels/cpu/attention_isa.h"
#include "kernels/cpu/conv_isa.h"
#include "kernels/cpu/istft_isa.h"
#include "kernels/cpu/kv_append_isa.h"
#include "kernels/cpu/linear_isa.h"
#include "kernels/cpu/picture_blend_isa.h"
#include "kernels/cpu/picture_warp_isa.h"
#include "kernels/cpu/plain_rows_isa.h"
#include "kernels/cpu/rows_isa.h"
#include "kernels/cpu/sequence_attention_isa.h"

namespace streamchar::SC_ISA {
namespace {

void attention_block(const SegmentAttention& call, int head, int first_row) noexcept {
  attention_block_any(call, head, first_row);
}

void append_panel(const KvAppend& call, int head, int panel) noexcept { append_panel_any(call, head, panel); }

void adaln_row(const AdalnModulate& call, int batch, int token) noexcept { adaln_row_any(call, batch, token); }

void gated_row(const GatedResidual& call, int batch, int token) noexcept { gated_row_any(call, batch, token); }

void istft_transform(const IstftOverlapAdd& call, const float* turns, int batch, int first, float* scratch,
                     float* pieces) noexcept {
  istft_transform_any(call, turns, batch, first, scratch, pieces);
}

void istft_add(const IstftOverlapAdd& call, const float* pieces, int batch, int block) noexcept {
  istft_add_any(call, pieces, batch, block);
}

void linear_block(const PackedWeights& weights, const LinearCall& call, const LinearBlock& block,
                  void* scratch) noexcept {
  linear_block_any(weights, call, block, scratch);
}

void conv_block(const PackedFilters& filters, const ConvCall& call, const ConvBlock& block, void* scratch) noexcept {
  conv_block_any(filters, call, block, scratch);
}

void flow_row(const PictureWarp& call, int frame, int row) noexcept { flow_row_any(call, frame, row); }

void warp_row(const PictureWarp& call, int frame, int row) noexcept { warp_row_any(call, frame, row); }

void blend_row(const PictureBlend& call, int frame, int row) noexcept { blend_row_any(call, frame, row); }

void sequence_attention(const SequenceAttention& call, int kv_head, float* panels) noexcept {
  sequence_attention_any(call, kv_head, panels);
}

void layer_norm(const float* x, const float* shift, const float* scale, int width, float eps, float* out) noexcept {
  modulate_row(x, shift, scale, width, eps, out);
}

void rms_norm(const float* x, const float* weight, int width, float eps, float* out) noexcept {
  rms_norm_row(x, weight, width, eps, out);
}

void silu_row(const float* x, int width, float* out) noexcept { silu_row_any(x, width, out); }

void swiglu_row(const float* gate, const float* up, int width, float* out) noexcept {
  swiglu_row_any(gate, up, width, out);
}

float dot(const float* a, const float* b, int width) noexcept { return dot_any(a, b, width); }

}  // namespace

extern const CpuKernels kKernels;
const CpuKernels kKernels = {
    .lanes = kLanes,
    .attention_block = attention_block,
    .append_panel = append_panel,
    .adaln_row = adaln_row,
    .gated_row = gated_row,
    .istft_transform = istft_transform,
    .istft_add = istft_add,
    .linear_block = linear_block,
    .conv_block = conv_block,
    .flow_row = flow_row,
    .warp_row = warp_row,
    .blend_row = blend_row,
    .sequence_attention = sequence_attention,
    .layer_norm_row = layer_norm,
    .rms_norm_row = rms_norm,
    .silu_row = silu_row,
    .swiglu_row = swiglu_row,
    .dot = dot,
};

}  // namespace streamchar::SC_ISA
