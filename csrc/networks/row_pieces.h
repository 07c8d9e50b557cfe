// A matrix's rows divided into work items.
#pragma once

#include <algorithm>

#include "kernels/packed_linear.h"
#include "kernels/thread_pool.h"

namespace streamchar {

// Items of equal length, two for each thread where that leaves them long enough to use a layer's weights well, and none
// longer than linear layers do best with. Results do not depend on it: rows are independent.
class RowPieces {
 public:
  explicit RowPieces(int rows) : rows_(rows) {
    constexpr int kTile = 6, kLeast = 2 * kTile;
    const int wanted = (rows + 2 * ThreadPool::global().threads() - 1) / (2 * ThreadPool::global().threads());
    each_ = std::min((std::max(wanted, kLeast) + kTile - 1) / kTile * kTile, packed_linear_item_rows());
  }

  int count() const { return (rows_ + each_ - 1) / each_; }
  int first(int item) const { return item * each_; }
  int size(int item) const { return std::min(each_, rows_ - first(item)); }
  int longest() const { return each_; }

 private:
  int rows_, each_;
};

}  // namespace streamchar
