// csrc/kernels/cuda/ptx.cuh on machine.h.
#pragma once

#include "cuda_runtime.h"

namespace streamchar::cuda {

inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - emulated::machine().shared);
}

inline void copy_16(uint32_t target, const void* source, bool valid) {
  emulated::Machine& m = emulated::machine();
  emulated::Group& open = m.threads[m.current].copies.back();
  open.last = m.races.copy_begins(m.current, target, 16);
  open.work.push_back([=] { emulated::poke(target, valid ? source : nullptr, 16); });
}
inline void close_copies() {
  emulated::Machine& m = emulated::machine();
  m.threads[m.current].copies.emplace_back();
}
// Does the oldest groups until `open` closed ones are left; returns the last of that work, as Races counts.
inline uint32_t finish_groups(emulated::Groups& groups, size_t open) {
  uint32_t last = 0;
  while (groups.size() - 1 > open) {
    for (const auto& work : groups.front().work) work();
    last = std::max(last, groups.front().last);
    groups.pop_front();
  }
  return last;
}
template <int kOpen>
void wait_copies() {
  emulated::Machine& m = emulated::machine();
  m.races.copies_end(m.current, finish_groups(m.threads[m.current].copies, kOpen));
}

// Lanes 8 i to 8 i + 7 give the row addresses of matrix i; a lane receives two elements of its row of each matrix.
inline void load_matrices_as(uint32_t (&r)[4], uint32_t address, bool transposed) {
  emulated::Machine& m = emulated::machine();
  m.races.access(m.current, address, 16, false);
  const emulated::Post* lanes = m.posted({{address}});
  const int row = m.lane() / 4, pair = m.lane() % 4 * 2;
  for (int i = 0; i < 4; ++i) {
    r[i] = 0;
    for (int e = 0; e < 2; ++e) {
      const int from = transposed ? pair + e : row, column = transposed ? row : pair + e;
      uint16_t bits;
      emulated::peek(&bits, lanes[8 * i + from].words[0] + column * 2, 2);
      r[i] |= uint32_t{bits} << 16 * e;
    }
  }
  m.meet_warp();  // what the matrices lie in may be written after this
}
inline void load_matrices(uint32_t (&r)[4], uint32_t address) { load_matrices_as(r, address, false); }
inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) { load_matrices_as(r, address, true); }

// This lane's rows r and r + 8 of a warp's 16 x 16 operand whose fragments the lanes show: register i of lane 4 r + q
// has columns 8 (i / 2) + 2 q and the next of row r + 8 (i % 2).
struct WarpRows {
  float a[2][16];
  WarpRows(const emulated::Post* lanes, int lane, bool half) {
    for (int q = 0; q < 4; ++q) {
      for (int i = 0; i < 4; ++i) {
        for (int e = 0; e < 2; ++e) {
          a[i % 2][8 * (i / 2) + 2 * q + e] = emulated::element(lanes[lane / 4 * 4 + q].words[i], e, half);
        }
      }
    }
  }
};

// b: lane 4 c + q has rows 2 q and the next of column c in b0, and eight further in b1.
template <bool kHalf>
void multiply_add(float* c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulated::Machine& m = emulated::machine();
  const emulated::Post* lanes = m.posted({{a[0], a[1], a[2], a[3], b0, b1}});
  const WarpRows rows(lanes, m.lane(), kHalf);
  for (int i = 0; i < 4; ++i) {
    const int column = m.lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      c[i] += rows.a[i / 2][k] * emulated::element(lanes[column * 4 + k % 8 / 2].words[4 + k / 8], k % 2, kHalf);
    }
  }
}

inline uint32_t pack_bf16(float low, float high) {
  const auto round = [](float x) {
    const uint32_t bits = emulated::bits_of(x);
    return std::isnan(x) ? 0x7FFFu : (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
  };
  return round(low) | round(high) << 16;
}
inline uint32_t pack_f16(float low, float high) { return emulated::to_half(low) | emulated::to_half(high) << 16; }
inline void unpack_f16(uint32_t bits, float& low, float& high) {
  low = emulated::element(bits, 0, true);
  high = emulated::element(bits, 1, true);
}
template <bool kHalf>
uint32_t pack(float low, float high) { return kHalf ? pack_f16(low, high) : pack_bf16(low, high); }

inline uint32_t multiply_halves(uint32_t a, uint32_t b) {
  return pack_f16(emulated::element(a, 0, true) * emulated::element(b, 0, true),
                  emulated::element(a, 1, true) * emulated::element(b, 1, true));
}
inline uint32_t subtract_halves(uint32_t a, uint32_t b) {
  return pack_f16(emulated::element(a, 0, true) - emulated::element(b, 0, true),
                  emulated::element(a, 1, true) - emulated::element(b, 1, true));
}

inline uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = uint64_t{b} << 32 | a;
  uint32_t picked = 0;
  for (int i = 0; i < 4; ++i) picked |= static_cast<uint32_t>(both >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
  return picked;
}
SC_UNWATCHED inline unsigned arrive_in_memory(unsigned* counter) {
  emulated::Machine& m = emulated::machine();
  m.races.arrive_in_memory(m.current, counter, m.told(emulated::kCounters));
  return (*counter)++;
}
inline float exp2_fast(float x) { return std::exp2(x); }

}  // namespace streamchar::cuda
