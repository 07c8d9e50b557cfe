// Index and rotation arithmetic that the GPU kernels share with the host, so that tests without a GPU reach it.
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/fused_linear.h"
#include "kernels/cuda/hopper_layout.h"
#include "kernels/fused_linear_plan.h"
#include "kernels/gelu.h"
#include "kernels/inverse_fft.h"
#include "kernels/kv_layout.h"
#include "kernels/kv_storage.h"
#include "kernels/rotation.h"
#include "kernels/tiles.h"
#include "kernels/work_split.h"

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

constexpr int kStreams = 8;

// Every thread block's parts, in its own order. `work`: (heads, query blocks, key blocks) of each stream.
std::vector<std::vector<py::dict>> work_split(const std::vector<std::tuple<int, int, int>>& work, int blocks) {
  if (work.size() > kStreams) throw std::invalid_argument("at most 8 streams");
  StreamWork list[kStreams] = {};
  for (std::size_t i = 0; i < work.size(); ++i) {
    list[i] = {std::get<0>(work[i]), std::get<1>(work[i]), std::get<2>(work[i])};
  }
  const auto split = WorkSplit<kStreams>::make(list, static_cast<int>(work.size()), blocks);
  std::vector<std::vector<py::dict>> found(static_cast<std::size_t>(split.grid));
  for (int block = 0; block < split.grid; ++block) {
    for (uint32_t step = 0; step < split.steps(block);) {
      const WorkPart p = split.part(block, step);
      if (p.end <= p.begin) throw std::logic_error("a part without units");
      step = split.after(step, p);
      std::vector<int> keys, slots;
      for (int i = p.begin; i < p.end; ++i) keys.push_back(p.key_block(i));
      for (int b = p.first_block(); b <= p.last_block; ++b) slots.push_back(p.slot_of(b));
      py::dict part;
      part["tile"] = py::make_tuple(p.stream, p.head, p.query_block);
      part["units"] = py::make_tuple(p.begin, p.end);
      part["of"] = p.key_blocks;
      part["keys"] = keys;
      part["split"] = p.split();
      part["slot"] = p.slot_of(block);
      part["blocks"] = py::make_tuple(p.first_block(), p.last_block);
      part["merged"] = slots;
      found[static_cast<std::size_t>(block)].push_back(part);
    }
  }
  return found;
}

// Of a list that is too long to count: the grid alone.
int work_grid(const std::vector<std::tuple<int, int, int>>& work, int blocks) {
  StreamWork list[kStreams] = {};
  for (std::size_t i = 0; i < work.size() && i < kStreams; ++i) {
    list[i] = {std::get<0>(work[i]), std::get<1>(work[i]), std::get<2>(work[i])};
  }
  return WorkSplit<kStreams>::make(list, static_cast<int>(work.size()), blocks).grid;
}

// (segment, first key, keys) of `count` tiles from tile `first` on, going round.
template <int kTile>
std::vector<std::tuple<int, int, int>> tiles_around(const std::vector<int>& rows, int first, int count) {
  const auto rows_of = [&](int segment) { return rows[static_cast<std::size_t>(segment)]; };
  const int segments = static_cast<int>(rows.size());
  std::vector<std::tuple<int, int, int>> found;
  if (first >= TileCursor<kTile>::count(rows_of, segments)) throw std::invalid_argument("no such tile");
  for (auto at = TileCursor<kTile>::seek(rows_of, segments, first); count > 0; --count) {
    found.emplace_back(at.segment, at.first, at.keys);
    at.advance_around(rows_of, segments);
  }
  return found;
}

std::vector<std::tuple<int, int, int>> tiles_from(const std::vector<int>& rows, int tile, int first, int count) {
  return tile == 64 ? tiles_around<64>(rows, first, count) : tiles_around<128>(rows, first, count);
}

int64_t partial_bytes(int warps, int head_dim, int grid) { return PartialLayout{warps, head_dim}.bytes(grid); }
int partial_grid(int warps, int head_dim, int64_t bytes) { return PartialLayout{warps, head_dim}.grid_within(bytes); }
int64_t partial_offset(int warps, int head_dim, int slot, int warp) {
  return PartialLayout{warps, head_dim}.partial(slot, warp);
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

// Of a fused_linear call: why it is refused, or (rows, count) of its products.
std::optional<std::string> linear_refusal(int batch, int tokens, int outputs, int inputs, const std::string& finish,
                                          const View& x, Address weight, Address bias, const Gate& gate,
                                          const View& residual, const View& y) {
  const char* why = cuda::fused_linear_refusal(
      fused_linear_call(batch, tokens, outputs, inputs, finish, x, weight, bias, gate, residual, y));
  return why ? std::optional<std::string>(why) : std::nullopt;
}

std::pair<int, int> linear_products(int batch, int tokens, int outputs, int inputs, const std::string& finish,
                                    const View& x, Address weight, Address bias, const Gate& gate,
                                    const View& residual, const View& y) {
  const cuda::LinearProducts products = cuda::linear_products(
      fused_linear_call(batch, tokens, outputs, inputs, finish, x, weight, bias, gate, residual, y));
  return {products.rows, products.count};
}

// (rows, columns, cost) of the tile for so many products of `rows` rows.
std::tuple<int, int, int64_t> linear_tile(bool sm90, int rows, int count, int outputs, int processors) {
  const cuda::LinearProducts products{rows, count};
  const cuda::LinearTile& tile =
      sm90 ? cuda::kLinearTilesSm90[cuda::linear_tile(cuda::kLinearTilesSm90, products, outputs, processors)]
           : cuda::kLinearTilesSm80[cuda::linear_tile(cuda::kLinearTilesSm80, products, outputs, processors)];
  return {tile.rows, tile.columns, cuda::linear_cost(tile, products, outputs, processors)};
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
  layout.def("work_split", &work_split);
  layout.def("work_grid", &work_grid);
  layout.def("tiles_from", &tiles_from);
  layout.def("partial_bytes", &partial_bytes);
  layout.def("partial_grid", &partial_grid);
  layout.def("partial_offset", &partial_offset);
  layout.def("to_float8", &to_float8);
  layout.def("to_int8", &to_int8);
  layout.def("spread_float8", &spread_float8);
  layout.def("spread_int8", &spread_int8);
  layout.def("linear_refusal", &linear_refusal);
  layout.def("linear_products", &linear_products);
  layout.def("linear_tile", &linear_tile);
  layout.def("gelu_tanh", &gelu_tanh);
}

}  // namespace streamchar::bindings
