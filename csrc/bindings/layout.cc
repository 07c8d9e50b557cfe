// Index and rotation arithmetic that the GPU kernels share with the host, so that tests without a GPU reach it.
#include <pybind11/stl.h>

#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "kernels/kv_layout.h"
#include "kernels/rotation.h"
#include "kernels/tiles.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

// (segment, first key, keys) of every tile of 64.
std::vector<std::tuple<int, int, int>> tiles(const std::vector<int>& rows) {
  const auto rows_of = [&](int segment) { return rows[static_cast<std::size_t>(segment)]; };
  const int segments = static_cast<int>(rows.size());
  std::vector<std::tuple<int, int, int>> found;
  for (auto at = TileCursor<64>::begin(rows_of, segments); !at.at_end(); at.advance(rows_of, segments)) {
    found.emplace_back(at.segment, at.first, at.keys);
  }
  return found;
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

}  // namespace

void bind_layout(py::module_& module) {
  py::module_ layout = module.def_submodule("layout", "Index arithmetic shared by host and device, for tests.");
  layout.def("tiles", &tiles);
  layout.def("swizzled_offset", &swizzled);
  layout.def("rotate_pair", &rotated);
  layout.def("panel_offset", &panel_offset);
  layout.def("row_offset", &row_offset);
}

}  // namespace streamchar::bindings
