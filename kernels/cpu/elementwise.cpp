// The cpu device's ops that are bound by memory, one number at a time.
//
// Arithmetic  Every operation is rounded by itself and in the order of the NumPy form, so that the
//             bits are the same. Nothing here depends on where a range of items begins or ends.
#include "native.h"

// dy ← dy · [y > 0]; items: numbers. A product, so that a NaN stays.
template <typename T>
EXPORT void relu_backward(i64 start, i64 stop, const T* __restrict__ y, T* __restrict__ dy) {
    for (i64 i = start; i < stop; i++) dy[i] *= T(y[i] > 0);
}
INSTANTIATE(relu_backward<float>, relu_backward<double>);
