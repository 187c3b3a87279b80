// Planted bugs: an output value that no thread writes; shared memory read before written.
//
// Formula   y[i] = 2·x[i]; and y = Σ x.
// Layout    x, y (n,).     Mapping   one thread a value; the sum in one block of 32.
// BUG       an off-by-one in the guard leaves the last value; the sum starts from shared
//           memory that is zero on most days.

#include "common.cuh"

template <typename T, bool BUG>
__global__ void twice(const T* __restrict__ x, T* __restrict__ y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n - BUG) y[i] = 2 * x[i];
}

template <typename T, bool BUG>
__global__ void sum(const T* __restrict__ x, T* __restrict__ y, int n) {
    __shared__ T total;
    if (threadIdx.x == 0) {
        if (!BUG) total = 0;
        for (int i = 0; i < n; i++) total += x[i];
        y[0] = total;
    }
}

INSTANTIATE(twice<float, false>, twice<float, true>);
INSTANTIATE(sum<float, false>, sum<float, true>);
INSTANTIATE(sum<double, true>);
