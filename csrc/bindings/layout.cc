// Index and rotation arithmetic that the GPU kernels share with the host, so that tests without a GPU reach it.
#include <pybind11/stl.h>

#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "kernels/cuda/hopper_layout.h"
#include "kernels/inverse_fft.h"
#include "kernels/kv_layout.h"
#include "kernels/rotation.h"
#include "kernels/tiles.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

// (segment, first key, keys) of every tile.
template <int kTile>
std::vector<std::tuple<int, int, int>> tiles_of(const std::vector<int>& rows) {
  const auto rows_of = [&](int segment) { return rows[static_cast<std::size_t>(segment)]; };
  const int segments = static_cast<int>(rows.size());
  std::vector<std::tuple<int, int, int>> found;
  for (auto at = TileCursor<kTile>::begin(rows_of, segments); !at.at_end(); at.advance(rows_of, segments)) {
    found.emplace_back(at.segment, at.first, at.keys);
  }
  return found;
}

std::vector<std::tuple<int, int, int>> tiles(const std::vector<int>& rows, int tile) {
  return tile == 64 ? tiles_of<64>(rows) : tiles_of<128>(rows);
}

uint32_t swizzled(int head_dim, int row, int piece) {
  return head_dim == 64 ? swizzled_offset<64>(row, piece) : swizzled_offset<128>(row, piece);
}

std::pair<float, float> rotated(float x, float y, float cosine, float sine) {
  const Pair turned = rotate_pair({x, y}, {cosine, sine});
  return {turned.x, turned.y};
}

int64_t panel_offset(bool value, bool bf16, int heads, int head_dim, int capacity, int token, int head, int channel) {
  const PanelLayout layout{heads, head_dim, capacity};
  const int panel = token / kPanelTokens, row = token % kPanelTokens;
  if (value) {
    return layout.value_block(head, panel) +
           (bf16 ? value_offset_bf16(row, channel, head_dim) : value_offset_f32(row, channel, head_dim));
  }
  return layout.key_block(head, panel) + (bf16 ? key_offset_bf16(row, channel) : key_offset_f32(row, channel));
}

int64_t row_offset(bool value, int heads, int head_dim, int capacity, int token, int head) {
  const RowLayout layout{heads, head_dim, capacity};
  return value ? layout.value(token, head) : layout.key(token, head);
}

std::pair<int, int> share(int tiles, int ranks, int rank) {
  const hopper::Share found = hopper::tile_share(tiles, ranks, rank);
  return {found.first, found.last};
}

// fold_spectrum of a and b, each (real, imaginary).
std::pair<float, float> folded(std::pair<float, float> a, std::pair<float, float> b, std::pair<float, float> turn) {
  const Pair z = fold_spectrum({a.first, a.second}, {b.first, b.second}, {turn.first, turn.second});
  return {z.x, z.y};
}

std::pair<int, int> butterfly_of(int i, int span) {
  const Butterfly at = butterfly(i, span);
  return {at.first, at.turn};
}

}  // namespace

void bind_layout(py::module_& module) {
  py::module_ layout = module.def_submodule("layout", "Index arithmetic shared by host and device, for tests.");
  layout.def("tiles", &tiles);
  layout.def("swizzled_offset", &swizzled);
  layout.def("rotate_pair", &rotated);
  layout.def("panel_offset", &panel_offset);
  layout.def("row_offset", &row_offset);
  layout.def("fold_spectrum", &folded);
  layout.def("butterfly", &butterfly_of);
  layout.def("tile_offset", &hopper::tile_offset);
  layout.def("row_operand", &hopper::row_operand);
  layout.def("row_operand_step", &hopper::row_operand_step);
  layout.def("column_operand", &hopper::column_operand);
  layout.def("column_operand_step", &hopper::column_operand_step);
  layout.def("result_row", &hopper::result_row);
  layout.def("result_column", &hopper::result_column);
  layout.def("tile_share", &share);
  layout.def("choose_ranks", &hopper::choose_ranks);
}

}  // namespace streamchar::bindings
