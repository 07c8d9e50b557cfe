// What keys and values are stored as on a GPU, and the arithmetic of the narrow types. Host and device; tested on the
// CPU.
//
// A narrow element is round(x * limit / range), to nearest even and saturating, where `range` is the magnitude, of one
// head's keys or values in one segment, that the type's limit stands for. Its value is the element * range / limit.
// Every element is also a float16 exactly, so nothing is lost beyond that one rounding.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace streamchar {

enum class KvStorage : int32_t { kBFloat16 = 0, kFloat8 = 1, kInt8 = 2 };  // kFloat8: e4m3

SC_HOST_DEVICE bool is_narrow(KvStorage storage) { return storage != KvStorage::kBFloat16; }
SC_HOST_DEVICE int storage_bytes(KvStorage storage) { return is_narrow(storage) ? 1 : 2; }
SC_HOST_DEVICE float storage_limit(KvStorage storage) { return storage == KvStorage::kFloat8 ? 448.0f : 127.0f; }

// The range in use: never so small that dividing by it overflows.
SC_HOST_DEVICE float least_range(float range) { return range > 1e-10f ? range : 1e-10f; }
SC_HOST_DEVICE float to_storage_factor(KvStorage storage, float range) {
  return storage_limit(storage) / least_range(range);
}
SC_HOST_DEVICE float from_storage_factor(KvStorage storage, float range) {
  return least_range(range) / storage_limit(storage);
}

// e4m3: sign, four bits of exponent with bias 7, three of mantissa; 448 is the largest, and there is no infinity.
SC_HOST_DEVICE uint32_t to_float8(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return sign | 0x7Fu;             // NaN
  if (magnitude >= 0x43E00000u) return sign | 0x7Eu;            // 448 and more
  if (magnitude < 0x3C800000u) {                                // below 2^-6, the least normal one: multiples of 2^-9
    float unit;
    __builtin_memcpy(&unit, &magnitude, sizeof unit);
    const float shifted = unit + 16384.0f;                      // where the spacing of floats is 2^-9
    uint32_t multiple;
    __builtin_memcpy(&multiple, &shifted, sizeof multiple);
    return sign | (multiple & 0xFu);
  }
  const uint32_t rounded = magnitude + 0x7FFFFu + (magnitude >> 20 & 1);
  return sign | ((rounded >> 20) - (120u << 3));
}

SC_HOST_DEVICE uint32_t to_int8(float x) {
  const float limited = x > 127.0f ? 127.0f : x < -127.0f ? -127.0f : x;
  const float shifted = limited + 12582912.0f;                  // 1.5 * 2^23: the spacing of floats is 1
  uint32_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  return x == x ? bits & 0xFFu : 0u;
}

SC_HOST_DEVICE uint32_t to_narrow(KvStorage storage, float x) {
  return storage == KvStorage::kFloat8 ? to_float8(x) : to_int8(x);
}

// Two float16, lower half first, of bytes 0 and 1 or 2 and 3 of a word. What they are still to be put right by is
// one exact operation: times 256 for e4m3, minus 1152 for int8.
SC_HOST_DEVICE uint32_t spread_float8(uint32_t word, int pair) {
  const uint32_t bytes = word >> 16 * pair;
  const uint32_t high = (bytes & 0xFFu) << 8 | (bytes & 0xFF00u) << 16;
  return (high & 0x80008000u) | (high & 0x7F007F00u) >> 1;
}
SC_HOST_DEVICE uint32_t spread_int8(uint32_t word, int pair) {
  const uint32_t bytes = (word ^ 0x80808080u) >> 16 * pair;
  return (bytes & 0xFFu) | (bytes & 0xFF00u) << 8 | 0x64006400u;   // 1024 + 128 + x
}

}  // namespace streamchar
