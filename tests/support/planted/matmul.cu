// A right kernel: the tiled matrix product, end to end, and the emulator's speed.
//
// Formula   c = a · b.     Layout   row-major a (m, k), b (k, n), c (m, n).
// Mapping   256 threads compute a tile of 16·M × 16·M, M × M values each; tiles of a and b
//           go through shared memory, 16 of k at a time.
// Assumes   m, n multiples of 16·M, k of 16.

#include "common.cuh"

template <typename T, int M>
__global__ void __launch_bounds__(256)
matmul(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ c, int n, int k) {
    constexpr int TILE = 16 * M, DEEP = 16;
    __shared__ T as[DEEP][TILE + 4], bs[DEEP][TILE + 4];
    int column = threadIdx.x % 16 * M, row = threadIdx.x / 16 * M;
    const T* tile_a = a + blockIdx.y * TILE * k;
    const T* tile_b = b + blockIdx.x * TILE;
    T sums[M][M] = {};
    for (int k0 = 0; k0 < k; k0 += DEEP) {
        for (int e = threadIdx.x; e < TILE * DEEP; e += 256) {
            as[e % DEEP][e / DEEP] = tile_a[e / DEEP * k + k0 + e % DEEP];
            bs[e / TILE][e % TILE] = tile_b[(k0 + e / TILE) * n + e % TILE];
        }
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < DEEP; kk++)
#pragma unroll
            for (int i = 0; i < M; i++)
#pragma unroll
                for (int j = 0; j < M; j++) sums[i][j] += as[kk][row + i] * bs[kk][column + j];
        __syncthreads();
    }
    T* to = c + (blockIdx.y * TILE + row) * n + blockIdx.x * TILE + column;
    for (int i = 0; i < M; i++)
        for (int j = 0; j < M; j++) to[i * n + j] = sums[i][j];
}

INSTANTIATE(matmul<float, 8>, matmul<float, 2>, matmul<double, 2>);
