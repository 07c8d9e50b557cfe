// Learned vectors by number.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace streamchar {

// Throws std::out_of_range unless `id` is a row of a table (ids, width).
inline void check_id(const char* what, int64_t id, const std::vector<float>& table, int width) {
  const auto ids = static_cast<int64_t>(table.size()) / width;
  if (id < 0 || id >= ids) {
    throw std::out_of_range(std::string(what) + " " + std::to_string(id) + " is not one of " + std::to_string(ids));
  }
}

}  // namespace streamchar
