// Planted bugs: asynchronous copies that nobody waited for, or that came too early.
//
// Formula   y = x, tile by tile through two stages of shared memory.
// Layout    x, y (tiles, 128).     Mapping   one block of 32 threads, 16 bytes a thread.
// CASE      0 right; 1 no wait; 2 waits for the wrong group (one too many left under way);
//           3 the copy of the tile after next starts before all have read that stage.

#include "common.cuh"

template <int CASE>
__global__ void copy_tiles(const float* __restrict__ x, float* __restrict__ y, int tiles) {
    __shared__ __align__(16) float stage[2][128];
    int at = 4 * threadIdx.x;
    cp_async_16(&stage[0][at], x + at);
    cp_async_commit();
    for (int tile = 0; tile < tiles; tile++) {
        // The last turn copies nothing: no valid bytes, sixteen zeros.
        bool more = tile + 1 < tiles;
        cp_async_16(&stage[(tile + 1) % 2][at], more ? x + 128 * (tile + 1) + at : x,
                    more ? 16 : 0);
        cp_async_commit();
        if (CASE != 1) cp_async_wait<CASE == 2 ? 2 : 1>();
        __syncthreads();
        for (int i = 0; i < 4; i++) y[128 * tile + at + i] = stage[tile % 2][127 - at - i];
        if (CASE != 3) __syncthreads();
    }
    cp_async_wait<0>();
    for (int i = 0; i < 4; i++) y[128 * tiles + at + i] = stage[tiles % 2][at + i];
}

INSTANTIATE(copy_tiles<0>, copy_tiles<1>, copy_tiles<2>, copy_tiles<3>);
