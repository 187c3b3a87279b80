// Planted bugs: barriers that not every thread reaches. Comments name their lines.
//
// Formula   y[i] = i.     Layout   y (n,).     Mapping   one block.
// CASE      0 right; 1 some threads return before the barrier; 2 the branches have a barrier
//           each; 3 a lane misses a shuffle that its warp waits in; 4 a lane waits at the
//           block's barrier where its warp waits in a shuffle; 5 an mma with too few lanes;
//           6 a mask without the lane that calls; 7 different numbers of turns of a loop.

#include "common.cuh"

template <int CASE>
__global__ void diverge(int* __restrict__ y, int n) {
    int i = threadIdx.x, value = i;
    if (CASE == 1 && i >= n) return;
    if (CASE == 2) {
        if (i % 2)
            __syncthreads();  // odd
        else
            __syncthreads();  // even
    }
    if (CASE == 3 && i != 5) value = __shfl_xor_sync(0xffffffffu, value, 1);  // shuffle
    if (CASE == 4) {
        if (i == 5)
            __syncthreads();  // lane 5
        else
            value = __shfl_xor_sync(0xffffffffu, value, 1);  // others
    }
    if (CASE == 5) {
        float c[4] = {};
        unsigned a[4] = {}, b[2] = {};
        mma_m16n8k16_bf16(c, a, b, c);  // mma
    }
    if (CASE == 6) value = __shfl_sync(0x0000ffffu, value, 0);  // mask
    if (CASE == 7)
        for (int turn = 0; turn < 1 + (i == 3); turn++) __syncthreads();  // loop
    if (CASE == 1 || CASE == 3) __syncthreads();  // end
    if (i < n) y[i] = value;
}

INSTANTIATE(diverge<0>, diverge<1>, diverge<2>, diverge<3>, diverge<4>, diverge<5>, diverge<6>,
            diverge<7>);
