// Planted bug: a removed __syncthreads.
//
// Formula   y[i] = x[n-1-i] within each block, through shared memory.
// Layout    x, y (blocks, n).     Mapping   one block a row, one thread a value, n ≤ 256.
// BUG       a thread reads its neighbour's value before the neighbour has written it: fine
//           while all threads happen to run in step, wrong when they do not.

#include "common.cuh"

template <typename T, bool BUG>
__global__ void reverse_row(const T* __restrict__ x, T* __restrict__ y, int n) {
    __shared__ T row[256];
    int i = threadIdx.x, at = blockIdx.x * n;
    row[i] = x[at + i];
    if (!BUG) __syncthreads();
    y[at + i] = row[n - 1 - i];
}

// The same within a warp, where __syncwarp is what is missing.
template <typename T, bool BUG>
__global__ void swap_lanes(const T* __restrict__ x, T* __restrict__ y) {
    __shared__ T lane[32];
    lane[threadIdx.x] = x[threadIdx.x];
    if (!BUG) __syncwarp();
    y[threadIdx.x] = lane[threadIdx.x ^ 1];
}

INSTANTIATE(reverse_row<float, false>, reverse_row<float, true>);
INSTANTIATE(swap_lanes<float, false>, swap_lanes<float, true>);
