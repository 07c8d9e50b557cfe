// Covers any number of rows with register tiles of at most kTileRows.
#pragma once

#include "kernels/cpu/simd.h"

namespace streamchar::SC_ISA {

// Calls body.template operator()<tile rows>(first row) for tiles that cover `rows`.
template <typename Body>
SC_INLINE void for_each_tile(int rows, const Body& body) {
  int row = 0;
  for (; row + kTileRows <= rows; row += kTileRows) body.template operator()<kTileRows>(row);
  switch (rows - row) {
    case 1: return body.template operator()<1>(row);
    case 2: return body.template operator()<2>(row);
    case 3: return body.template operator()<3>(row);
    default: break;
  }
  if constexpr (kTileRows > 4) {
    if (rows - row == 4) body.template operator()<4>(row);
    if (rows - row == 5) body.template operator()<5>(row);
  }
}

}  // namespace streamchar::SC_ISA
