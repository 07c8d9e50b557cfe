// csrc/kernels/cuda/hopper.cuh on machine.h. Products read their operands when they are waited for, and not before.
#pragma once

#include "cuda.h"
#include "kernels/cuda/ptx.cuh"

namespace streamchar::cuda {

inline void barrier_init(uint32_t barrier, int arrivals) {
  emulated::Machine& m = emulated::machine();
  emulated::Barrier& b = m.barriers[barrier];
  b = {arrivals, arrivals};
  b.index = static_cast<int>(m.barriers.size()) - 1;
}
inline void barrier_init_done() {}
inline emulated::Barrier& barrier_at(uint32_t barrier) { return emulated::machine().barriers.at(barrier); }
inline void settle(emulated::Barrier& barrier) {
  if (!barrier.settle()) emulated::machine().fault = "nobody waited for a phase of a barrier";
}
inline void barrier_arrive(uint32_t barrier) {
  emulated::Barrier& b = barrier_at(barrier);
  if (b.pending-- == 0) std::abort();
  emulated::machine().races.release_arrival(emulated::machine().current, b.gathered);
  settle(b);
  ++emulated::machine().progress;
  emulated::machine().yield();  // whoever waited may be quicker than what comes next here
}
inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  barrier_at(barrier).bytes += bytes;
  barrier_arrive(barrier);
}
inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  emulated::Barrier& b = barrier_at(barrier);
  emulated::Machine& m = emulated::machine();
  m.wait_until([&] { return b.parity != parity; });
  b.missed = false;
  if (m.told(emulated::kBarriers + b.index)) m.races.acquire(m.current, b.ended);
}

SC_UNWATCHED inline uint32_t swizzled_128(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

inline void copy_box(uint32_t target, const CUtensorMap* map, uint32_t barrier, int column, int row, int head) {
  emulated::Machine& m = emulated::machine();
  if (target % 1024 || map->box[0] * 2 != 128 || map->box[2] != 1) std::abort();
  emulated::Barrier& b = barrier_at(barrier);
  m.races.box_begins(m.current, b.index, target, map->box[1] * 128);
  for (uint32_t r = 0; r < map->box[1]; ++r) {
    for (uint32_t piece = 0; piece < 8; ++piece) {
      const uint32_t to = swizzled_128(target + r * 128 + piece * 16);
      const bool inside = row + r < map->sizes[1] && column + piece * 8 < map->sizes[0];
      if (inside) {
        const char* from = map->data + (row + r) * map->strides[0] + head * map->strides[1];
        emulated::poke(to, from + (column + piece * 8) * 2, 16);
      } else {
        emulated::poke(to, nullptr, 16);
      }
    }
  }
  m.races.release_box(b.index, b.gathered);
  b.bytes -= map->box[0] * 2 * map->box[1];
  settle(b);
  ++m.progress;
}
inline void publish_shared() {
  emulated::Machine& m = emulated::machine();
  if (m.told(emulated::kPublish)) m.races.publish(m.current);
}

inline void group_sync(int id) { emulated::machine().meet(id, 128, true); }
inline void pair_sync(int id) { emulated::machine().meet(id, 256, true); }
inline void pair_arrive(int id) { emulated::machine().arrive(id, 256, true); }
template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}

inline emulated::Groups& open_products() {
  emulated::Machine& m = emulated::machine();
  return m.threads[m.current].products;
}
// Products are a whole warpgroup's: its warps must come here together.
inline void multiply_begin() {
  emulated::Machine& m = emulated::machine();
  m.races.products_begin(m.current);
  m.meet(emulated::kWarpgroups + m.current / 128, 128, false);
}
inline void multiply_commit() { open_products().emplace_back(); }
template <int kOpen>
void multiply_wait() {
  emulated::Machine& m = emulated::machine();
  m.races.products_end(m.current, finish_groups(open_products(), kOpen));
  m.meet_warp();  // a warp waits as one
}
// `operands`: where shared memory is read, 16 bytes each.
template <typename Work>
void begin_product(const std::vector<uint32_t>& operands, const Work& work) {
  emulated::Machine& m = emulated::machine();
  emulated::Group& open = open_products().back();
  open.last = m.races.product(m.current, operands);
  open.work.push_back(work);
}
template <typename T, int kCount>
void pin(T (&)[kCount]) {}

struct Descriptor {
  uint32_t start, leading, stride;
  explicit Descriptor(uint64_t bits)
      : start((bits & 0x3FFF) << 4), leading((bits >> 16 & 0x3FFF) << 4), stride((bits >> 32 & 0x3FFF) << 4) {
    if (bits >> 62 != 1) std::abort();
  }
  // Summed axis contiguous (K-major), or the other one (MN-major).
  SC_UNWATCHED uint32_t row_address(int row, int k) const {
    return swizzled_128(start + row / 8 * stride + row % 8 * 128 + k * 2);
  }
  SC_UNWATCHED uint32_t column_address(int k, int column) const {
    return swizzled_128(start + column / 64 * leading + column % 64 * 2 + k / 8 * stride + k % 8 * 128);
  }
  SC_UNWATCHED float row_element(int row, int k, bool half) const {
    return emulated::shared_element(row_address(row, k), half);
  }
  SC_UNWATCHED float column_element(int k, int column, bool half) const {
    return emulated::shared_element(column_address(k, column), half);
  }
};

template <bool kHalf>
void multiply_rows(float (&sums)[64], uint64_t a, uint64_t b, int add) {
  const int thread = emulated::machine().current % 128;
  const Descriptor x(a), y(b);
  std::vector<uint32_t> operands;
  for (int k = 0; k < 16; k += 8) {
    for (int i = 0; i < 64; ++i) operands.push_back(x.row_address(i, k));
    for (int i = 0; i < 128; ++i) operands.push_back(y.row_address(i, k));
  }
  begin_product(operands, [&sums, thread, x, y, add]() SC_UNWATCHED {
    for (int i = 0; i < 64; ++i) {
      const int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + thread % 4 * 2 + i % 2;
      float sum = add ? sums[i] : 0.0f;
      for (int k = 0; k < 16; ++k) sum += x.row_element(row, k, kHalf) * y.row_element(column, k, kHalf);
      sums[i] = sum;
    }
  });
}

template <bool kHalf, int kCount>
void multiply_columns(float (&sums)[kCount], const uint32_t (&a)[4], uint64_t b, int add) {
  emulated::Machine& m = emulated::machine();
  const WarpRows rows(m.posted({{a[0], a[1], a[2], a[3]}}), m.lane(), kHalf);
  const int thread = m.current % 128;
  const Descriptor y(b);
  std::vector<uint32_t> operands;
  for (int k = 0; k < 16; ++k) {
    for (int column = 0; column < 2 * kCount; column += 8) operands.push_back(y.column_address(k, column));
  }
  begin_product(operands, [&sums, thread, rows, y, add]() SC_UNWATCHED {
    for (int i = 0; i < kCount; ++i) {
      if (!add) sums[i] = 0.0f;
      const int column = i / 4 * 8 + thread % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k) sums[i] += rows.a[i / 2 % 2][k] * y.column_element(k, column, kHalf);
    }
  });
}

}  // namespace streamchar::cuda
