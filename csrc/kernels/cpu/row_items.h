// Shares out the rows of a (batch, tokens, width) tensor in work items worth waking a thread for.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/thread_pool.h"

namespace streamchar {

template <typename Body>
void for_each_row(int batch, int tokens, int width, const Body& body) {
  constexpr int kItemElements = 16384;
  const int rows = batch * tokens, per_item = std::max(1, kItemElements / std::max(1, width));
  ThreadPool::global().run((rows + per_item - 1) / per_item, [&](int item) noexcept {
    const int end = std::min(rows, (item + 1) * per_item);
    for (int row = item * per_item; row < end; ++row) body(row / tokens, row % tokens);
  });
}

}  // namespace streamchar
